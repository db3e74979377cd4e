"""A service that classifies uploaded pictures, and computes together those that come together.

    pip install "npresnet[service]"
    uvicorn fastapi_service:create_app --factory --port 8000
    curl -F picture=@photo.jpg localhost:8000/classify

200: the likeliest classes. 413: too large a file. 422: not a picture. 503: too many are waiting.
504: it took too long. A picture whose client went away before its turn is not computed.
"""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, HTTPException, Request, UploadFile
from PIL import Image

from npresnet import Predictor

LARGEST = 20_000_000                                              # bytes of a file
Waiting = tuple[bytes, asyncio.Future]                            # a file, and its answer to come


async def compute(predictor: Predictor, queue: asyncio.Queue[Waiting], size: int, wait: float):
    """For ever: take what comes within `wait` seconds of the first, `size` pictures at most."""
    while True:
        batch = [await queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while len(batch) < size:
                    batch.append(await queue.get())
        wanted = [(file, answer) for file, answer in batch if not answer.done()]     # not given up
        try:
            found = await asyncio.to_thread(list, predictor.stream([file for file, _ in wanted]))
        except Exception as error:                                # they fail, the service goes on
            found = [error] * len(wanted)
        for (_, answer), result in zip(wanted, found):
            if not answer.done():
                answer.set_result(result)


def create_app(predictor: Predictor | None = None, *, size: int = 16, wait: float = 0.005,
               limit: int = 64, timeout: float = 5.0) -> FastAPI:
    """size: pictures computed at once. limit: pictures that wait. wait, timeout: seconds."""
    predictor = predictor or Predictor("demo")
    queue: asyncio.Queue[Waiting] = asyncio.Queue(limit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        list(predictor.stream([Image.new("RGB", (64, 64))]))      # loads and compiles
        computing = asyncio.create_task(compute(predictor, queue, size, wait))
        yield
        computing.cancel()
        await asyncio.wait([computing])
    app = FastAPI(lifespan=lifespan)

    @app.post("/classify")
    async def classify(picture: UploadFile, request: Request) -> list[dict]:
        if (picture.size or 0) > LARGEST:
            raise HTTPException(413, f"larger than {LARGEST:,} bytes")
        answer = asyncio.get_running_loop().create_future()
        try:
            queue.put_nowait((await picture.read(), answer))
        except asyncio.QueueFull:
            raise HTTPException(503, "too many are waiting", {"Retry-After": "1"}) from None
        gone = asyncio.ensure_future(request.receive())           # what comes now is a goodbye
        try:
            await asyncio.wait([answer, gone], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():                                 # if it went, nobody reads this
                raise HTTPException(504, f"not answered within {timeout} seconds")
            if isinstance(answer.result(), Exception):
                raise answer.result()
            if answer.result().error:
                raise HTTPException(422, answer.result().error)
            return [each._asdict() for each in answer.result().value]
        finally:                                                  # a cancelled request comes here
            answer.cancel()
            gone.cancel()
    return app
