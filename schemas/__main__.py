"""Print the JSON Schema of every record.  Run as: python -m schemas"""

import json

from pydantic.json_schema import models_json_schema

from schemas import CandidateGroup, Evaluation, Question, ReferenceScores, StageManifest

_, schema = models_json_schema(
    [(model, "validation") for model in (Question, CandidateGroup, ReferenceScores, Evaluation, StageManifest)],
    title="AFT-Ray records",
)
print(json.dumps(schema, indent=2))
