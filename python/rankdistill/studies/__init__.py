"""Published studies that anyone runs again with one command, and what they reached beside what was published.

A study is a list of models (`Entry`), trained one after another under each seed by `runner.carry_out`, and a report of them.
"""
