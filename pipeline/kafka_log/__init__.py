"""A log on Apache Kafka: the only package that knows a Kafka client."""
