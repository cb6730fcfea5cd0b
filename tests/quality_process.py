"""`graphsieve quality --follow` as a process."""

import urllib.error
import urllib.request

from kafka_consumers import Consumer


class QualityProcess(Consumer):
    name = "quality"

    def answers(self, page: str) -> int:
        """The status of a page of its port; 0 where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0
