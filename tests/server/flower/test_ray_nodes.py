"""Nodes of a Ray cluster that cannot run clients, and processes of clients that die."""

from typing import Any

import pytest

pytest.importorskip("ray")
from edgefd_server.flower import ray_backend, ray_nodes
from edgefd_server.flower.ray_backend import ClusterBackend
from edgefd_server.flower.ray_nodes import nodes_with_cores, problem_of_node
from flwr.app import Context, RecordDict
from ray.exceptions import ActorDiedError, ObjectLostError

from edgefd.core.errors import UserError
from edgefd.core.version import __version__


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerHostname": f"{name}.lan", "Alive": alive, "Resources": resources}


def test_only_live_nodes_with_cores_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("head", memory=9.0), node("a", CPU=2.0), node("b", CPU=3.5), node("dead", alive=False, CPU=8.0)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert [(n.host, n.cores) for n in nodes_with_cores()] == [("a.lan", 2), ("b.lan", 3)]
    monkeypatch.setattr("ray.nodes", lambda: nodes[:1])
    with pytest.raises(UserError, match="has 1 nodes, but no core"):
        nodes_with_cores()


def test_a_node_says_what_it_lacks() -> None:
    assert problem_of_node("model: {name: mlp}", __version__) == ""
    assert "this machine has 9.9: install the same version" in problem_of_node("", "9.9")
    missing = "model: {name: mlp, init: /no/such/model.npz}"
    assert "it has no /no/such/model.npz (model.init)" in problem_of_node(missing, __version__)
    assert "no_such_module" in problem_of_node("model: {name: 'no_such_module:Net'}", __version__)


class Actor:
    """An actor whose runs are the call numbers of the fake `ray.get`."""

    def __init__(self) -> None:
        self.run = self.__ray_ready__ = self

    def remote(self, *_: Any) -> "Actor":
        return self


class Pool:
    def __init__(self, n: int) -> None:
        self.pool = [Actor() for _ in range(n)]
        self.create_actor_fn = Actor


@pytest.mark.parametrize("error", [ActorDiedError(), ObjectLostError("0" * 56, None, "")], ids=["node", "result"])
def test_a_client_whose_process_dies_runs_again_on_another(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, dead = list[dict[str, Any]](), list[Actor]()
    backend = ClusterBackend.__new__(ClusterBackend)
    backend._report, backend._idle, backend.app_fn = lines.append, ray_backend.SimpleQueue(), None
    backend.pool = pool = Pool(2)  # type: ignore[assignment]
    actors = list(pool.pool)
    for actor in actors:
        backend._idle.put(actor)

    def get(actor: Actor) -> tuple[str, str, str]:
        if actor is actors[0]:
            raise error
        return ("4", "reply", "state")

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.kill", dead.append)
    monkeypatch.setattr("ray.wait", lambda refs, **_: (refs, []))
    context = Context(run_id=1, node_id=1, node_config={"partition-id": 4}, state=RecordDict(), run_config={})
    assert backend.process_message(None, context) == ("reply", "state")  # type: ignore[arg-type, comparison-overlap]
    assert [line["again"] for line in lines] == ["4"]
    assert dead == actors[:1]
    free = {backend._idle.get(timeout=5) for _ in range(2)}
    assert free == set(pool.pool)
    assert actors[0] not in free


def test_a_cluster_without_any_core_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list[dict[str, Any]]()
    backend = ClusterBackend.__new__(ClusterBackend)
    backend._report = lines.append
    monkeypatch.setattr("ray.wait", lambda refs, **_: ([], refs))
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: [node("head")])
    backend._await(Actor())
    assert "no core" in lines[0]["error"]
