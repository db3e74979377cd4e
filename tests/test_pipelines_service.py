"""The FastAPI example: direct answers, batches, timeouts, clients that go away, a full queue."""
from __future__ import annotations

import asyncio
import importlib.util
import io
import socket
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npresnet import Predictor

for needed in ("fastapi", "python_multipart"):
    pytest.importorskip(needed, reason="needs the extra service")
httpx = pytest.importorskip("httpx", reason="needs httpx")

EXAMPLE = Path(__file__).resolve().parents[1] / "tutorials" / "pipelines" / "fastapi_service.py"
spec = importlib.util.spec_from_file_location("fastapi_service", EXAMPLE)
service = importlib.util.module_from_spec(spec)
spec.loader.exec_module(service)


class Watched(Predictor):
    """Notes the batches that it is asked for; computes while `open` is set."""

    def __init__(self):
        super().__init__("demo", top=3)
        self.batches: list[list[bytes]] = []
        self.open, self.failing = threading.Event(), False
        self.open.set()

    def stream(self, pictures, **options):
        self.batches.append(list(pictures))
        assert self.open.wait(60)
        if self.failing:
            raise RuntimeError("a bug")
        yield from super().stream(self.batches[-1], **options)

    async def reached(self, count: int) -> None:
        """Until it was asked for that many batches."""
        for _ in range(2000):
            if len(self.batches) >= count:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{len(self.batches)} batches came, not {count}")


def photographs(count: int) -> list[bytes]:
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        file = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8))
        small.resize((200 + i, 180), Image.Resampling.BICUBIC).save(file, "PNG")
        files.append(file.getvalue())
    return files


@asynccontextmanager
async def running(predictor: Predictor, **options):
    """A client of the service, without a network in between."""
    app = service.create_app(predictor, **options)
    options = dict(transport=httpx.ASGITransport(app, raise_app_exceptions=False), timeout=60)
    async with (app.router.lifespan_context(app),
                httpx.AsyncClient(base_url="http://test", **options) as client):
        predictor.batches.clear()                                 # of warming up
        yield client


def post(client, file: bytes) -> asyncio.Task:
    return asyncio.create_task(client.post("/classify", files={"picture": ("photo", file)}))


async def waiting(tasks: list[asyncio.Task]) -> None:
    """Until these requests stand in the queue: nothing happens any more."""
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in tasks)


def check(response, answer) -> None:
    assert response.status_code == 200, response.text
    found = response.json()
    assert [each["label"] for each in found] == [each.label for each in answer.value]
    assert [each["wnid"] for each in found] == [each.wnid for each in answer.value]
    want = [each.probability for each in answer.value]
    assert [each["probability"] for each in found] == pytest.approx(want, abs=1e-6)


def test_concurrent_requests_form_batches_and_get_their_own_answers():
    files = photographs(21)
    files[4] = b"no picture"
    want = list(Predictor("demo", top=3).stream(files))

    async def main():
        predictor = Watched()
        async with running(predictor, size=8, wait=0.05) as client:
            responses = await asyncio.gather(*[post(client, file) for file in files])
            alone = await post(client, files[0])
        return responses, alone, [len(batch) for batch in predictor.batches]
    responses, alone, sizes = asyncio.run(main())
    print("computed together:", sizes)
    assert sum(sizes) == 22 and max(sizes) == 8 and len(sizes) <= 8 and sizes[-1] == 1
    for response, answer in zip(responses, want):
        if answer.error is None:
            check(response, answer)
        else:
            assert response.status_code == 422
            assert response.json() == {"detail": answer.error}
    check(alone, want[0])


def test_a_late_answer_is_a_504_and_the_next_one_is_in_time():
    first, second, third = photographs(3)
    want, = Predictor("demo", top=3).stream([third])

    async def main():
        predictor = Watched()
        async with running(predictor, timeout=0.3) as client:
            predictor.open.clear()
            computed = post(client, first)
            await predictor.reached(1)
            late = [await computed, await post(client, second)]   # the second waits all that time
            predictor.open.set()
            response = await post(client, third)
            return late, response, predictor.batches
    late, response, batches = asyncio.run(main())
    assert [each.status_code for each in late] == [504, 504]
    assert late[0].json() == {"detail": "not answered within 0.3 seconds"}
    assert batches == [[first], [third]], "the second was given up before its turn"
    check(response, want)


def test_whoever_goes_away_is_not_computed_for():
    first, second, third = photographs(3)

    async def main():
        predictor = Watched()
        async with running(predictor, size=4) as client:
            predictor.open.clear()
            tasks = [post(client, first)]
            await predictor.reached(1)
            tasks += [post(client, second), post(client, third)]
            await waiting(tasks)
            tasks[1].cancel()
            await asyncio.sleep(0.05)
            predictor.open.set()
            return [await tasks[0], await tasks[2]], predictor.batches
    responses, batches = asyncio.run(main())
    assert [response.status_code for response in responses] == [200, 200]
    assert batches == [[first], [third]]


def test_a_full_queue_is_a_503():
    files = photographs(6)
    want = list(Predictor("demo", top=3).stream(files))

    async def main():
        predictor = Watched()
        async with running(predictor, size=1, limit=2, timeout=60) as client:
            predictor.open.clear()
            tasks = [post(client, files[0])]
            await predictor.reached(1)
            tasks += [post(client, file) for file in files[1:3]]
            await waiting(tasks)
            refused = [await post(client, file) for file in files[3:]]
            predictor.open.set()
            return refused, await asyncio.gather(*tasks)
    refused, responses = asyncio.run(main())
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(503, "1")] * 3
    for response, answer in zip(responses, want):
        check(response, answer)


def test_a_bug_fails_its_batch_and_nothing_else(monkeypatch):
    file, = photographs(1)
    monkeypatch.setattr(service, "LARGEST", len(file))

    async def main():
        predictor = Watched()
        async with running(predictor) as client:
            predictor.failing = True
            failed = await post(client, file)
            predictor.failing = False
            return failed, await post(client, file), await post(client, file + b"0")
    failed, response, large = asyncio.run(main())
    assert [failed.status_code, response.status_code, large.status_code] == [500, 200, 413]


@pytest.mark.slow
def test_over_a_network_a_closed_connection_is_seen_and_the_end_waits_for_answers():
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra service")
    first, second, third = photographs(3)
    predictor = Watched()
    config = uvicorn.Config(service.create_app(predictor, timeout=60), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()

    async def main():
        while not server.started:
            await asyncio.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        predictor.batches.clear()
        predictor.open.clear()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            tasks = [post(client, first)]
            await predictor.reached(1)
            request = client.build_request("POST", "/classify", files={"picture": ("p", second)})
            body = b"".join([part async for part in request.stream])
            lines = [f"{name}: {value}" for name, value in request.headers.items()]
            with socket.create_connection(("127.0.0.1", port)) as leaving:
                head = "\r\n".join(["POST /classify HTTP/1.1", *lines, "", ""])
                leaving.sendall(head.encode() + body)
                await asyncio.sleep(0.3)
            tasks.append(post(client, third))
            await waiting(tasks)
            server.should_exit = True                             # as a signal would
            await asyncio.sleep(0.3)
            predictor.open.set()
            return await asyncio.gather(*tasks)
    try:
        responses = asyncio.run(main())
    finally:
        server.should_exit = True
        predictor.open.set()
        thread.join(30)
    assert not thread.is_alive()
    assert [response.status_code for response in responses] == [200, 200]
    assert predictor.batches == [[first], [third]]
