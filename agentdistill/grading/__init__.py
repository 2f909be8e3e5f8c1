"""Grading: is an answer right? By kind of task: mathematics, a short phrase, the letter of an option."""

from agentdistill.grading.grader import Grader, grade_math

__all__ = ["Grader", "grade_math"]
