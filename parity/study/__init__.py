"""The whole study beside what was published: `tables`, `figures`, `judgements`, all by `render`.

Everything here reads recordings (or what looks like them, `arms.Arm`) and knows no framework.
"""
