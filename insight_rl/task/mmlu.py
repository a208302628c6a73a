"""MMLU: its subjects and their four groups (arXiv 2009.03300, appendix B). Everything else is multiple choice.

The code released with MMLU counts anatomy as "other", the paper and most harnesses as STEM; so do we.
"""

from __future__ import annotations

import dataclasses

from insight_rl.task.multiple_choice import MultipleChoiceRows
from insight_rl.task.problem import Problem, required_text
from insight_rl.task.rows import Row

GROUPS = {
    "STEM": (
        "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
        "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
        "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
        "high_school_mathematics high_school_physics high_school_statistics machine_learning"
    ),
    "humanities": (
        "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
        "jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law "
        "world_religions"
    ),
    "social sciences": (
        "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
        "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations "
        "security_studies sociology us_foreign_policy"
    ),
    "other": (
        "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
        "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology"
    ),
}
GROUP_OF_SUBJECT = {subject: group for group, subjects in GROUPS.items() for subject in subjects.split()}


class MmluRows(MultipleChoiceRows):
    """Rows ``{question, choices, answer, subject}``; ``metadata`` gets the subject and its group.

    The training split (``auxiliary_train``) has no subjects: its group is ``auxiliary``.
    """

    @property
    def fields(self) -> tuple[str, ...]:
        return (*super().fields, "subject")

    def problem(self, row: Row) -> Problem:
        problem = super().problem(row)
        if not row.get("subject"):
            return dataclasses.replace(problem, metadata={**problem.metadata, "group": "auxiliary"})
        subject = required_text(row, ("subject",)).replace(" ", "_")
        if subject not in GROUP_OF_SUBJECT:
            raise ValueError(f"subject={subject!r} is none of MMLU's {len(GROUP_OF_SUBJECT)}")
        metadata = {**problem.metadata, "subject": subject, "group": GROUP_OF_SUBJECT[subject]}
        return dataclasses.replace(problem, metadata=metadata)
