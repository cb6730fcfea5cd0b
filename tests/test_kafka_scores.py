"""The same scores through Kafka as in an embedded run, whatever the number of consumers."""

from pathlib import Path

import pytest
from kafka_consumers import SCHEMA, Deployment, assert_undisturbed, stream, undisturbed
from worlds import random_model

from pipeline.schema import load_schema


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=8).save(folder)
    return folder


@pytest.mark.parametrize(("partitions", "consumers"), [(1, 1), (4, 3)])
def test_every_partition_equals_an_embedded_run_of_its_part(broker, model, tmp_path, partitions, consumers):
    messages = stream(6000)
    wanted = undisturbed(model, messages, partitions, tmp_path)
    with Deployment(broker, model, tmp_path, partitions) as deployment:
        deployment.append(messages)
        for _ in range(consumers):
            deployment.consumer()
        deployment.wait_until_scored()
        assert_undisturbed(deployment, wanted)
