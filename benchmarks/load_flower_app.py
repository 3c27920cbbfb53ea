"""ServerApp of `benchmarks.load_flower`: in each round it sends a message to every node and receives all replies.

It uses the Grid only. It is copied into a separate app, so it imports nothing of edgefd. A message is a ConfigRecord
with bytes, like the messages of edgefd over Flower, because no message can have fewer objects.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
POLL = 1.0  # seconds; each poll requests every missing reply, which costs the SuperLink time


def peak() -> float:
    """Return the peak memory of this process in MB."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and write a line of JSON for each round."""
    settings = context.run_config
    devices, rounds, down = (int(settings[name]) for name in ("devices", "rounds", "down"))
    out = Path(str(settings["out"]))
    while len(nodes := list(grid.get_node_ids())) < devices:
        time.sleep(0.5)
    for number in range(rounds):
        began = time.perf_counter()
        # Flower stores equal content only once, and the rounds of a real run differ.
        body = number.to_bytes(4, "big") + bytes(down - 4)
        messages = [
            Message(RecordDict({"load": ConfigRecord({"body": body})}), dst_node_id=node, message_type="query.round")
            for node in nodes
        ]
        pending = set(grid.push_messages(messages))
        pushed = time.perf_counter() - began
        size = failed = 0
        while pending:
            replies = list(grid.pull_messages(pending))
            for reply in replies:
                pending.discard(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    failed += 1
                else:
                    size += len(bytes(reply.content["load"]["body"]))  # type: ignore[arg-type]
            time.sleep(POLL)
        seconds = time.perf_counter() - began
        line = {"seconds": seconds, "pushed": pushed, "failed": failed, "bytes": size, "peak": peak()}
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
