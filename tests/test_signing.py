"""A signature is good for one run: its id, its queue, its head, its code and its call."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import pytest
from hands import body_of

from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.codec import encode_call, pickle_function
from skunkqueue.envelope import Seal, open_body, pack_body, pack_head
from skunkqueue.errors import BadSignature, UnknownJob
from skunkqueue.ids import new_id
from skunkqueue.job import Carried
from skunkqueue.keys import Keys
from skunkqueue.signing import seal_body, verify_body
from skunkqueue.worker.child.resolve import MOST_HEADS, Resolver

HEAD = pack_head("job", "", Seal())
KEYS = Keys(b"secret")
ODD = encode_call((SimpleNamespace(a=1),), {})
PLAIN = encode_call((1,), {})

_names = itertools.count()
ran = []


@pytest.fixture
def make_queue():
    """Queues on stores of their own, unless one is named."""
    made = []

    def make(name="signed", store=None):
        made.append(SkunkQueue(name, f"memory://signing-{next(_names) if store is None else store}"))
        return made[-1]

    yield make
    for queue in made:
        queue.close()


def job_by_value(queue, name="mark"):
    def mark(value):
        from test_signing import ran

        ran.append(value)
        return value

    mark.__module__ = "__main__"
    return queue.event(name=name)(mark)


def work(queue):
    with WorkerPool(queue, in_process=True, imports=[__name__]) as pool:
        pool.run_until_idle()


@pytest.mark.parametrize("code", [b"", b"code"])
@pytest.mark.parametrize("call", [PLAIN, ODD], ids=["plain", "odd"])
def test_a_body_is_good_for_its_own_run(code, call):
    body = open_body(seal_body(HEAD, code, call, id="1", queue="q", keys=KEYS))

    verify_body(body, id="1", queue="q", keys=KEYS)

    assert (body.head, body.code, body.call) == (HEAD, code, call)
    assert bool(body.signature) == bool(code or call is ODD)


CONTENTS = {"code": (b"code", PLAIN), "odd": (b"", ODD), "both": (b"code", ODD)}
CHANGES = [
    {"id": "2"},
    {"queue": "r"},
    {"id": "1q", "queue": ""},  # the same bytes in another place
    {"id": "", "queue": "1q"},
    {"head": HEAD + b"x"},
    {"code": b"edoc"},
    {"code": b""},
    {"call": ODD + b"."},
    {"signature": b""},
    {"signature": b"\x00" * 36},
]
CASES = {
    f"{name} {change}": (*of, change)
    for name, of in CONTENTS.items()
    for change in CHANGES
    if change.get("code") != of[0]
}


@pytest.mark.parametrize("code, call, change", CASES.values(), ids=CASES)
def test_a_body_is_refused_wherever_anything_differs(code, call, change):
    body = open_body(seal_body(HEAD, code, call, id="1", queue="q", keys=KEYS))
    where = {"id": "1", "queue": "q"}
    changed = body._replace(**{name: value for name, value in change.items() if name not in where})

    with pytest.raises(BadSignature):
        verify_body(changed, **{**where, **{name: change[name] for name in where if name in change}}, keys=KEYS)


@pytest.mark.parametrize("where", ["another id", "another queue", "another store", "the same run"])
@pytest.mark.parametrize("how", ["by value", "odd arguments"])
def test_a_copied_body_is_not_executed(make_queue, how, where, request):
    """Whoever can write into a store, but has no key, cannot have a signed run executed once more."""
    mark = request.node.name
    queue = make_queue()
    job = job_by_value(queue) if how == "by value" else in_module(queue)
    argument = mark if how == "by value" else SimpleNamespace(mark=mark)
    original = queue.store.get([job.fire(argument).id])
    (envelope,) = (record.envelope for record in original.values())
    target = {"another queue": make_queue("other"), "another store": make_queue()}.get(where, queue)
    # On another store a run of the same id is that run; only as another is it a copy.
    copied = envelope.id if where in ("another queue", "the same run") else new_id(target.now())

    target.store.put([envelope._replace(id=copied, queue=target.name)])
    work(target)

    (run,) = [run for run in target.runs() if run.id == copied]
    times = ran.count(argument)
    if where == "the same run":
        assert (run.state, times) == ("succeeded", 1)
    else:
        assert run.state == "failed"
        assert "made for another run or queue" in run.error
        assert times == (target is queue)  # the original itself


def in_module(queue):
    def marked(value):
        ran.append(value)

    marked.__module__, marked.__qualname__ = __name__, f"marked_{next(_names)}"
    job = queue.event(marked)
    setattr(sys.modules[__name__], marked.__qualname__, job)
    return job


def test_every_run_of_one_firing_has_a_signature_of_its_own(make_queue):
    queue = make_queue()
    job = job_by_value(queue)
    runs = [
        *job.options(routes=["default", "b", "c"]).fire("several"),
        *job.fire_many([("many",)] * 3),
        job.fire_at(5, "later"),
        job.options(unique="key").fire("unique"),
    ]

    bodies = [body_of(run._envelope) for run in runs]
    for run, body in zip(runs, bodies, strict=True):
        verify_body(body, id=run.id, queue=queue.name)
    assert len({body.signature for body in bodies}) == len(runs)
    assert len({body.code for body in bodies}) == 1


def test_a_run_put_again_is_executed_once(make_queue):
    queue = make_queue()
    job = job_by_value(queue)
    run = job.fire("again")

    run.fire()
    work(queue)
    run.fire()
    work(queue)

    assert run.result == "again"
    assert ran.count("again") == 1


def test_a_newer_body_is_unknown_before_its_signature_is_looked_at():
    newer = b"\x95\x63" + HEAD[2:]

    with pytest.raises(UnknownJob, match="newer"):
        Resolver(queue="q").find(open_body(pack_body(newer, b"code", PLAIN)), "1")


# -- what a worker remembers


def test_what_a_worker_remembers_is_bounded(make_queue):
    queue = make_queue()
    job = in_module(queue)
    resolver = Resolver(queue=queue.name)

    for number in range(3 * MOST_HEADS):
        plan = job.options(timeout=10 + number / 7)._plan
        body = open_body(plan.body(b"", (1,), {}))
        assert resolver.find(body, "1") == (job.name, job)
        assert resolver.find(body, "1") == (job.name, job)

    sizes = [len(kept) for kept in vars(resolver).values() if hasattr(kept, "__len__")]
    assert max(sizes) <= MOST_HEADS


def test_code_that_was_seen_is_not_unpickled_again():
    code = pickle_function(Carried(lambda: 1, "job"))
    resolver = Resolver(queue="q")

    first, second = (
        resolver.find(open_body(seal_body(HEAD, code, PLAIN, id=id, queue="q")), id)[1] for id in ("1", "2")
    )

    assert first is second
