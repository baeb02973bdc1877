"""Routes by which the server's model is asked with encrypted embeddings: see `chiasm.recognition.encrypted`."""

from __future__ import annotations

from base64 import b64encode

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from chiasm.recognition.encrypted import answer
from chiasm.serving.bodies import read_json
from chiasm.serving.parts import json_answer, json_body, parts_of, with_model
from chiasm.serving.problems import Problem
from chiasm.serving.schemas import File, Strict
from chiasm.types import Modality
from chiasm.verbs.encrypted import describe
from chiasm.verbs.model import Model

router = APIRouter(tags=["recognise"])
_MOST_CIPHERTEXTS = 8


class EncryptedQuestion(Strict):
    """An encrypted feature row for one head of the model."""

    column: str = Field(max_length=1000)
    modalities: tuple[Modality, ...] = Field(max_length=4)
    question: tuple[File, ...] = Field(
        min_length=1, max_length=_MOST_CIPHERTEXTS, description="CKKS ciphertexts, base64."
    )
    version: str = Field(max_length=1000, description="Of the model, as GET /v1/encrypted said.")


class EncryptedAnswer(BaseModel):
    """Encrypted outputs, which are summed over the slots of a class after decryption."""

    parts: list[str] = Field(description="CKKS ciphertexts, base64.")
    unit: float = Field(description="What the outputs are to be multiplied by.")


class EncryptedModel(BaseModel):
    """All of a model that asking it with encrypted embeddings needs: not its weights, and no examples."""

    encoder: str
    label: str
    fingerprints: dict[str, str] = Field(description="Of the encoder, by modality.")
    version: str
    files: dict[str, str] = Field(description="The recogniser as it is saved, with zeros for its weights; base64.")


@router.get("/v1/encrypted", responses={200: {"model": EncryptedModel}})
async def encrypted_model(request: Request) -> Response:
    """Describe the server's model to somebody who asks it with encrypted embeddings."""
    model = _model_of(request)
    return json_answer(await parts_of(request).engine.read(describe, model))


@router.post("/v1/encrypted", responses={200: {"model": EncryptedAnswer}}, openapi_extra=json_body(EncryptedQuestion))
async def encrypted_outputs(request: Request) -> Response:
    """Compute outputs of a head for an embedding that the server cannot read."""
    parts = parts_of(request)
    model = _model_of(request)
    asked = await read_json(request, EncryptedQuestion, parts.settings)
    if asked.version != model.version:
        raise Problem(409, "model", "the model was replaced meanwhile. Ask for it again: GET /v1/encrypted")
    column = model.recognizer.columns_.get(asked.column)
    head = None if column is None else column.heads.get(asked.modalities)
    if head is None or not head.is_linear:
        raise Problem(422, "invalid", "the model has no linear head of this column and these modalities")
    said = await parts.engine.read(answer, head, [*asked.question])
    return json_answer({"parts": [b64encode(part).decode("ascii") for part in said.parts], "unit": said.unit})


def _model_of(request: Request) -> Model:
    classifier = with_model(request).classifier
    assert classifier is not None  # with_model has asked
    return classifier.model
