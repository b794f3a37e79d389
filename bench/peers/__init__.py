"""Contenders that exist nowhere else, written as somebody who knows the library would."""
