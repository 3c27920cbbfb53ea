"""The workload as a Flower app on Ray, written like Flower's examples, without code of edgefd's rounds or engine.

`main` prints a JSON list of the seconds of each round; `benchmarks.flower_ray` runs it in its own process.

For each message, the client builds its model, loads the parameters and momentum from `context.state`, trains with
DataLoaders, and replies with soft labels. The server averages them. Two Ray processes with one core each are used.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.engines import client_step, plain_model
from benchmarks.workload import BATCH, LR, MOMENTUM, Case, federation

client = ClientApp()


@lru_cache(maxsize=1)
def _data(model: str, clients: int, rows: int) -> Any:
    torch.set_num_threads(1)
    return federation(Case(model, clients, rows))


@client.train()
def train(message: Message, context: Context) -> Message:
    """Run one round of one client."""
    case = Case(*json.loads(message.content["case"]["case"]))  # type: ignore[index,call-overload,arg-type]
    fed = _data(case.model, case.clients, case.rows)
    client_data = fed.clients[int(context.node_config["partition-id"])]
    model = plain_model(case)
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM)
    if "model" in context.state:
        model.load_state_dict(context.state["model"].to_torch_state_dict())  # type: ignore[union-attr]
        momentum = context.state["momentum"].to_torch_state_dict()  # type: ignore[union-attr]
        for parameter, buffer in zip(model.parameters(), momentum.values(), strict=True):
            optimizer.state[parameter] = {"momentum_buffer": buffer}
    proxy, teacher = torch.from_numpy(fed.proxy.x), message.content["teacher"]["teacher"].numpy()  # type: ignore[index,union-attr]
    shared = TensorDataset(proxy, torch.from_numpy(teacher.copy()))
    private = TensorDataset(torch.from_numpy(client_data.x), torch.from_numpy(client_data.y))
    answer = client_step(model, optimizer, shared, DataLoader(private, BATCH, shuffle=True))
    context.state["model"] = ArrayRecord(model.state_dict())
    buffers = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    context.state["momentum"] = ArrayRecord({str(i): Array(b.numpy()) for i, b in enumerate(buffers)})
    content = RecordDict({"answer": ArrayRecord({"answer": Array(answer.numpy())})})
    return Message(content=content, reply_to=message)


def server(case: Case, rounds: int, seconds: list[float]) -> ServerApp:
    """Create a ServerApp that appends the duration of each round to `seconds`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < case.clients:
            time.sleep(0.1)
        teacher = np.full((case.proxy_rows, 10), 0.1, np.float32)
        for _ in range(rounds):
            began = time.perf_counter()
            content = {
                "teacher": ArrayRecord({"teacher": Array(teacher)}),
                "case": ConfigRecord({"case": json.dumps([case.model, case.clients, case.rows])}),
            }
            messages = [Message(RecordDict(dict(content)), dst_node_id=n, message_type="train") for n in nodes]
            replies = list(grid.send_and_receive(messages))
            answers = [r.content["answer"]["answer"].numpy() for r in replies]  # type: ignore[index,union-attr]
            if len(answers) != case.clients:
                raise RuntimeError(f"{len(answers)} of {case.clients} clients answered")
            teacher = np.mean(answers, axis=0, dtype=np.float32)
            seconds.append(time.perf_counter() - began)

    return app


def main(model: str, clients: int, rows: int, rounds: int) -> None:
    """Run the rounds, then print their seconds."""
    seconds: list[float] = []
    run_simulation(
        server(Case(model, clients, rows), rounds, seconds),
        client,
        num_supernodes=clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False},
        },
    )
    print(json.dumps(seconds))
