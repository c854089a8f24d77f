"""One run of a batch in a process of its own: the order on stdin, the outcome on stdout.

Whatever happens to this process, the batch goes on; if the batch ends, so does this process.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_CLOSING_SECONDS = 45.0


def main() -> None:
    """Carry out the order and tell how it ended."""
    order = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print belongs to the log.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    found = carry_out(order)
    answer.write(json.dumps(found) + "\n")
    answer.flush()
    sys.stderr.flush()
    # Prefect's threads would wait at exit for whoever listens to them.
    os._exit(0)


def carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """Run a beamtime.

    Returns
    -------
    `state`: `done`; `refused`: the input is at fault, trying again would not help; `failed`.
    `reason`: one line, but for `done`. `steps`, `reused` of what is done.
    """
    from pipeline.errors import DichrotomoError, ResourceError

    try:
        from flows.running import run_beamtime  # It sets what Prefect reads when it is imported.

        from prefect import tags  # isort: skip

        from schemas.recipe import Recipe

        with tags(*order["tags"]):
            recipe = Recipe.model_validate(order["recipe"])
            summary = run_beamtime(Path(order["beamtime"]), Path(order["out"]), recipe)
    except ResourceError as error:
        return {"state": "failed", "reason": _line(error)}
    except DichrotomoError as error:
        return {"state": "refused", "reason": _line(error)}
    except KeyboardInterrupt:
        return {"state": "interrupted", "reason": "interrupted"}
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"state": "failed", "reason": f"{type(error).__name__}: {_line(error)[:200]}"}
    return {"state": "done", "reason": "", "steps": summary.steps, "reused": summary.reused}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _end_with_parent() -> None:
    """Interrupt the run when the pipe from the batch closes; its jobs and workers end with it."""
    sys.stdin.buffer.read()
    _thread.interrupt_main()
    time.sleep(_CLOSING_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
