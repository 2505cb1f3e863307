"""A plugin for pytest: every test of the suite has bucket names of its own, and what one cannot clean up is not the next
one's failure. (The suite empties all buckets of a prefix before each test, and stops at the first it cannot.) Tests run in the
suite's order, whichever are chosen: one of them asks for an account that has no bucket, and others leave some behind."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    import s3tests.functional as suite

    items.sort(key=lambda item: item.location[:2])
    clean = suite.teardown

    def setup():
        suite.prefix = suite.choose_bucket_prefix(template="coffer-{random}-", max_len=20)

    def teardown():
        try:
            clean()
        except Exception as error:
            print("not cleaned up:", error)

    suite.setup, suite.teardown = setup, teardown
