"""The order of the folders of the package."""

# A folder may import from folders of earlier steps, never from another one of its own step.
STEPS = [
    {"model", "training"},
    {"audio", "tasks"},
    {"metrics", "symbolic", "hub"},
    {"data"},
    {"inference", "pretraining", "conversion"},
    {"search", "evaluation", "integrations", "export"},
    {"finetuning"},
    {"text_audio", "study"},
    {"cli"},
]
