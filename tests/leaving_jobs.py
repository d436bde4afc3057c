"""Functions that leave something behind in their worker, and functions that would notice."""

import asyncio
import contextvars
import functools
import threading
import time
import types

from skunkqueue import current_run

tenant = contextvars.ContextVar("tenant", default="unset")


def set_tenant(value):
    before = tenant.get()
    tenant.set(value)
    return before


async def set_tenant_async(value):
    await asyncio.sleep(0)
    before = tenant.get()
    tenant.set(value)
    await asyncio.sleep(0)
    return before, tenant.get()


async def tenant_in_a_task():
    tenant.set("mine")
    return await asyncio.create_task(set_tenant_async("of the task")), tenant.get()


def own_id():
    return current_run().id


async def own_id_async():
    await asyncio.sleep(0)
    return current_run().id


async def own_id_in_a_task():
    return await asyncio.create_task(own_id_async())


async def own_id_in_a_thread():
    return await asyncio.to_thread(own_id)


def own_id_in_a_thread_with_its_context():
    found = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: found.append(own_id()),))
    thread.start()
    thread.join()
    return found[0]


def own_id_in_asyncio_run():
    return asyncio.run(own_id_in_a_task())


async def answer(value):
    await asyncio.sleep(0)
    return value


def get_loop(value):
    """As older code does."""
    loop = asyncio.new_event_loop() if threading.current_thread() is not threading.main_thread() else _get()
    try:
        return loop.run_until_complete(answer(value))
    finally:
        loop.close()


def _get():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.get_event_loop()


def set_loop(value):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(answer(value))
    finally:
        loop.close()


def run_loop(value):
    return asyncio.run(answer(value))


kept = []


async def keep_the_loop():
    kept.append(asyncio.get_running_loop())


def close_the_kept_loop():
    loop = kept.pop()
    try:
        loop.close()
    except RuntimeError as error:
        return str(error)


async def close_the_loop():
    asyncio.get_running_loop().close()


async def stop_the_loop():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "stopped"


async def stop_it_later():
    asyncio.get_running_loop().call_later(0.02, asyncio.get_running_loop().stop)


async def exit_in_a_task():
    async def leave():
        raise SystemExit(3)

    await asyncio.create_task(leave())


async def exit_in_a_task_left_behind():
    async def leave():
        await asyncio.sleep(0.02)
        raise SystemExit(3)

    task = asyncio.create_task(leave())
    task.add_done_callback(lambda ended: ended.exception())  # else asyncio tells of it, whenever it is collected
    kept.append(task)


# -- what comes back has to be awaited


def logged(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


@logged
async def decorated(value):
    await asyncio.sleep(0)
    return value


@logged
async def fails(value):
    await asyncio.sleep(0)
    raise ValueError(value)


@logged
async def hangs():
    await asyncio.sleep(60)


@logged
async def hogs():
    while True:
        time.sleep(0.01)


@logged
async def id_behind_a_decorator():
    await asyncio.sleep(0)
    return current_run().id


def within_tenant(value):
    """A decorator that sets what the coroutine it gives then sees."""
    tenant.set(value)
    return set_tenant_async("other")


async def _add(first, second):
    await asyncio.sleep(0)
    return first + second


add_one = functools.partial(_add, 1)
add_in_two = functools.partial(logged(_add), 1)


class Call:
    async def __call__(self, value):
        await asyncio.sleep(0)
        return value


class PlainCall:
    def __call__(self, value):
        return answer(value)


class Waiting:
    """Something with ``__await__``, as several libraries give."""

    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.value


def custom(value):
    return Waiting(value)


@types.coroutine
def generator_based(value):
    yield
    return value


def sometimes(value):
    return answer(value) if value else "at once"


call = Call()
plain_call = PlainCall()
