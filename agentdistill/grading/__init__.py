"""Grading: is an answer right? By kind of task: mathematics, a short phrase, an option's letter, a
program."""

from agentdistill.grading.grader import AnswerGrader, Grader, grade_math

__all__ = ["AnswerGrader", "Grader", "grade_math"]
