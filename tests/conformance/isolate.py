"""A plugin for pytest: every test of the suite has bucket names of its own, and what one cannot clean up is not the next
one's failure. (The suite empties all buckets of a prefix before each test, and stops at the first it cannot.)"""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    import s3tests.functional as suite

    clean = suite.teardown

    def setup():
        suite.prefix = suite.choose_bucket_prefix(template="coffer-{random}-", max_len=20)

    def teardown():
        try:
            clean()
        except Exception as error:
            print("not cleaned up:", error)

    suite.setup, suite.teardown = setup, teardown
