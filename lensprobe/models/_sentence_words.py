"""The words of the small sentence language, and how they are inflected."""

from __future__ import annotations

__all__ = ["ADJECTIVES", "GRAMMAR", "NOUNS", "PLACES", "VERBS"]

GRAMMAR: tuple[str, ...] = (
    *("the", "a", "an", "some", "by", "that", "it"),
    *("is", "are", "was", "were", "will", "be", "do", "does", "did"),
    *(".", "?", ",", ";"),
)
"""Words and signs without a meaning of their own."""

NOUNS: dict[str, str] = {
    "dog": "dogs",
    "cat": "cats",
    "fox": "foxes",
    "owl": "owls",
    "horse": "horses",
    "mouse": "mice",
    "goose": "geese",
    "wolf": "wolves",
    "bear": "bears",
    "rabbit": "rabbits",
    "spider": "spiders",
    "child": "children",
    "woman": "women",
    "man": "men",
    "baker": "bakers",
    "farmer": "farmers",
    "king": "kings",
    "queen": "queens",
    "sailor": "sailors",
    "teacher": "teachers",
    "doctor": "doctors",
    "artist": "artists",
    "actor": "actors",
    "thief": "thieves",
}
"""Singular and plural."""

ADJECTIVES: tuple[str, ...] = (
    "old",
    "young",
    "tall",
    "small",
    "angry",
    "happy",
    "quiet",
    "clever",
    "lazy",
    "brave",
    "hungry",
    "famous",
)

VERBS: dict[str, tuple[str, str, str]] = {
    "chase": ("chases", "chased", "chased"),
    "see": ("sees", "saw", "seen"),
    "find": ("finds", "found", "found"),
    "follow": ("follows", "followed", "followed"),
    "help": ("helps", "helped", "helped"),
    "hear": ("hears", "heard", "heard"),
    "catch": ("catches", "caught", "caught"),
    "draw": ("draws", "drew", "drawn"),
    "call": ("calls", "called", "called"),
    "watch": ("watches", "watched", "watched"),
    "greet": ("greets", "greeted", "greeted"),
    "thank": ("thanks", "thanked", "thanked"),
    "meet": ("meets", "met", "met"),
    "teach": ("teaches", "taught", "taught"),
    "feed": ("feeds", "fed", "fed"),
    "choose": ("chooses", "chose", "chosen"),
}
"""Base form, and its third person singular, past and participle."""

PLACES: dict[str, str] = {
    "garden": "in",
    "kitchen": "in",
    "forest": "in",
    "station": "at",
    "market": "at",
    "school": "at",
    "roof": "on",
    "bridge": "on",
    "beach": "on",
    "river": "near",
    "castle": "near",
    "lake": "near",
}
"""A place and the preposition that goes with it."""
