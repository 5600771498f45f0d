"""What requests and answers are made of."""

from pydantic import BaseModel, ConfigDict

DESCRIBED = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""Has the API's document tell what each field is by its docstring (`api/http/openapi.py`)."""


class ApiModel(BaseModel):
    """Part of a request or an answer."""

    model_config = DESCRIBED
