"""A round trip with minio-py: put, parts, get, list, delete. Prints nothing, and exits with 0."""

import io
import os

from minio import Minio

host = os.environ["ENDPOINT"].removeprefix("http://")
client = Minio(host, access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"], secure=False)
bucket = "minio-py-" + os.urandom(4).hex()
bodies = {"a folder/small ü": b"small", "large": os.urandom(17 * 1024 * 1024)}

client.make_bucket(bucket)
for key, body in bodies.items():
    client.put_object(bucket, key, io.BytesIO(body), len(body), part_size=8 * 1024 * 1024)
assert "-" in client.stat_object(bucket, "large").etag
for key, body in bodies.items():
    assert client.get_object(bucket, key).read() == body, key
assert [item.object_name for item in client.list_objects(bucket, recursive=True)] == sorted(bodies)
for key in bodies:
    client.remove_object(bucket, key)
client.remove_bucket(bucket)
