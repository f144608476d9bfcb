"""A client of the service: embeddings, blind partners and pairs over HTTP.

    with Client("http://127.0.0.1:8000") as client:
        embeddings = client.embed([Path("a.jpg"), Path("b.jpg")])
        for partner in client.blind_partners(Path("a.jpg")).data:
            print(partner.image_id, partner.clip_cos, partner.dino_cos)

It may be used by several threads at a time. It speaks to the service itself, never through a proxy,
whatever the environment says: its token is for nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from miner.client_answers import (
    EmbeddingList,
    Embeddings,
    Pair,
    PairPage,
    Partners,
    arranged,
    joined,
)
from miner.client_calls import Answer, Calls
from miner.client_images import Picture, encoded, parcels
from miner.client_refusals import image_problem, is_too_much, refusal_of
from miner.errors import ServiceError

__all__ = ["Client", "Embeddings", "Pair", "Partners", "Picture"]

Parsed = TypeVar("Parsed", bound=BaseModel)

EMBEDDINGS = "/v1/embeddings"
PARTNERS = "/v1/blind-partners"
PAIRS = "/v1/pairs"

REQUEST_IMAGES = 32
"""Images of one request, where nothing else is said."""


class Client:
    """Speaks to one service."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout_s: float = 60.0, retries: int = 4
    ) -> None:
        """Prepare; connects when something is asked.

        Args:
            url: http://HOST:PORT or https://HOST of the service.
            token: which it asks for, if it does. It goes with every request, so that beyond this
                machine the URL should be https.
            timeout_s: of one request, its retries and their pauses included. Only the look-up of
                the host's name, which is the system's, may take longer.
            retries: further tries where a connection fails, or the service is busy or away.

        Raises:
            ValueError: an argument is out of its range.
            ResourceError: httpcore is not installed.
        """
        self._calls = Calls(url, token, timeout_s, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._calls.close()

    def embed(
        self,
        images: Picture | Sequence[Picture],
        *,
        model: str | None = None,
        request_images: int = REQUEST_IMAGES,
    ) -> Embeddings:
        """Embed images.

        Args:
            images: one, or several, which go in as many requests as they need.
            model: `clip`, `dino` or an encoder's name; None takes both.
            request_images: images of one request at most; the service has a limit of its own.

        Returns:
            Vectors by encoder_id. Of several images those that the service refuses are in `errors`.

        Raises:
            ServiceError: the service refuses a request, or a single image, or does not answer.
            TypeError: an image is given as something else.
            ValueError: an image's mode cannot be sent.
        """
        if not isinstance(images, Sequence) or isinstance(images, str | bytes):
            return self._arranged(self._done(EMBEDDINGS, self._asked(encoded(images), model)), 1)
        if request_images < 1:
            raise ValueError(f"request_images is {request_images}; it has to be 1 or more")
        parts: list[Embeddings] = []
        starts: list[int] = []
        for start, parcel in parcels(images, request_images):
            parts.append(self._embed(parcel, model))
            starts.append(start)
        return self._joined(parts, starts)

    def blind_partners(
        self,
        image: Picture | None = None,
        *,
        image_id: str | None = None,
        clip_above: float | None = None,
        dino_below: float | None = None,
        limit: int | None = None,
    ) -> Partners:
        """Images of the corpus that CLIP calls the same as this one, and DINO different.

        Args:
            image: any image, or None where `image_id` is given.
            image_id: of an image of the corpus.
            clip_above: CLIP's threshold; None takes the service's.
            dino_below: DINO's.
            limit: how many at most.

        Raises:
            ServiceError: the service refuses, or does not answer.
            ValueError: both image and image_id are given, or none.
        """
        if (image is None) == (image_id is None):
            raise ValueError("give either an image or an image_id")
        asked: dict[str, Any] = {
            "image_id": image_id,
            "clip_above": clip_above,
            "dino_below": dino_below,
            "limit": limit,
        }
        if image is not None:
            asked["image"] = encoded(image)
        given = {name: value for name, value in asked.items() if value is not None}
        answer = self._done(PARTNERS, self._calls.ask("POST", PARTNERS, json=given))
        return self._parsed(Partners, PARTNERS, answer)

    def pairs(
        self,
        *,
        page_size: int = 100,
        sort: str | None = None,
        order: Literal["asc", "desc"] | None = None,
        text: str | None = None,
        **filters: float | str | bool,
    ) -> Iterator[Pair]:
        """The blind pairs of the run, page by page.

        Args:
            page_size: of one request.
            sort: a column; None takes the run's own order.
            order: of `sort`.
            text: to look for in captions, URLs and labels.
            filters: further parameters of the service (`min_gap=0.5`).

        Raises:
            ServiceError: the service refuses, or does not answer.
            ValueError: a filter is what pages are made with.
        """
        if given := sorted({"limit", "cursor"} & filters.keys()):
            raise ValueError(f"{given[0]} is no filter: page_size says how many a request gives")
        asked = {"limit": page_size, "sort": sort, "order": order, "text": text, **filters}
        params = {name: value for name, value in asked.items() if value is not None}
        seen: set[str] = set()
        while True:
            answer = self._done(PAIRS, self._calls.ask("GET", PAIRS, params=params))
            page = self._parsed(PairPage, PAIRS, answer)
            yield from page.data
            if page.next_cursor is None:
                return
            if page.next_cursor in seen:
                raise self._nonsense(PAIRS, ValueError("its pages go round in a circle"))
            seen.add(page.next_cursor)
            params["cursor"] = page.next_cursor

    def image(self, image_id: str) -> bytes:
        """The original bytes of an image of the corpus.

        Raises:
            ServiceError: the service refuses, or does not answer.
        """
        path = f"/v1/images/{_path_of(image_id)}"
        return self._done(path, self._calls.ask("GET", path)).body

    def ready(self) -> bool:
        """Whether the service takes requests now; asked once.

        Raises:
            ServiceError: what answers is no such service.
        """
        answer = self._calls.try_once("/readyz")
        if answer is None or answer.status == 503:
            return False
        self._done("/readyz", answer)
        return True

    def _embed(self, parcel: list[str], model: str | None) -> Embeddings:
        """Several images: a refused one is an error of its own."""
        answer = self._asked(parcel, model)
        # 422 is also the status of a list in which no image is good.
        if not (answer.status == 422 and b'"data"' in answer.body):
            problem = image_problem(answer.status, answer.body)
            if len(parcel) == 1 and problem is not None:
                return Embeddings([], {}, {0: problem}, {})
            if len(parcel) > 1 and is_too_much(answer.status, answer.body):
                # The service takes less at a time than was thought.
                half = len(parcel) // 2
                parts = [self._embed(each, model) for each in (parcel[:half], parcel[half:])]
                return self._joined(parts, [0, half])
            self._done(EMBEDDINGS, answer)
        return self._arranged(answer, len(parcel))

    def _joined(self, parts: list[Embeddings], starts: list[int]) -> Embeddings:
        try:
            return joined(parts, starts)
        except ValueError as error:
            raise self._nonsense(EMBEDDINGS, error) from error

    def _asked(self, images: str | list[str], model: str | None) -> Answer:
        asked = {"input": images, "model": model, "encoding_format": "base64"}
        return self._calls.ask("POST", EMBEDDINGS, json=asked)

    def _arranged(self, answer: Answer, num_images: int) -> Embeddings:
        items = self._parsed(EmbeddingList, EMBEDDINGS, answer)
        try:
            return arranged(items, num_images)
        except ValueError as error:
            raise self._nonsense(EMBEDDINGS, error) from error

    def _done(self, path: str, answer: Answer) -> Answer:
        """The answer, where the service did what was asked."""
        if not answer.is_ok:
            raise refusal_of(self._calls.url + path, answer.status, answer.body)
        return answer

    def _parsed(self, model: type[Parsed], path: str, answer: Answer) -> Parsed:
        try:
            return model.model_validate_json(answer.body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self._nonsense(path, ValueError(f"{where or 'body'}: {first['msg']}")) from error

    def _nonsense(self, path: str, why: Exception) -> ServiceError:
        return ServiceError(
            f"{self._calls.url}{path} answered what is no answer of this service: {why}; see "
            "whether it is another program, or one of another version"
        )


def _path_of(image_id: str) -> str:
    """An image_id as part of a URL; a part of dots only would be taken for a step upwards."""
    parts = (quote(part, safe="") for part in image_id.split("/"))
    return "/".join(part.replace(".", "%2E") if part in (".", "..") else part for part in parts)
