"""Write the dashboards: python deploy/grafana/build.py [FOLDER]

`service.py` and `detection.py` say what is on them; the JSON beside them is what Grafana loads. A test holds the two to
each other. A dashboard changed in Grafana is to be changed here, or the next build undoes it.
"""

import json
import sys
from pathlib import Path

from detection import DETECTION
from service import SERVICE


def main(folder: Path) -> None:
    for name, document in {"service": SERVICE, "detection": DETECTION}.items():
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
