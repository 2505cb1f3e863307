"""Who may do what: users, ownership, policies, public access blocks, access control lists."""

import collections
import contextlib
import json
import os
import socket
import subprocess
import threading

import pytest
import requests
from botocore.exceptions import ClientError

from conftest import BINARY, PATIENCE, quickest, settled
from test_boto3 import error_code

DENIED = ("AccessDenied", 403)


def new_bucket(client, **arguments):
    name = "b-" + os.urandom(8).hex()
    client.create_bucket(Bucket=name, **arguments)
    return name


def statement(bucket, action, principal="*", effect="Allow", **more):
    return {"Effect": effect, "Principal": principal, "Action": action,
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"], **more}


def set_policy(server, client, bucket, *statements):
    """Has every gateway know a policy."""
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    # No policy keeps root from reading it.
    server.everywhere(lambda root: json.loads(root.get_bucket_policy(Bucket=bucket)["Policy"]) == policy)


def test_what_is_changed_is_in_force_at_every_gateway_within_a_second(server, s3, bucket):
    tags, users = [], []

    def tag():
        tags.append({"Key": "k", "Value": os.urandom(4).hex()})
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags[-1:]})

    def add():
        made = json.loads(server.coffer("user", "add", "u" + os.urandom(4).hex(), "--json").stdout)
        users.append((made["access_keys"][0], made["secret_key"]))
        server.direct(users[-1])

    assert quickest(tag, lambda: server.everywhere(lambda client: client.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags[-1:])) < 1
    assert quickest(add, lambda: server.everywhere(lambda client: client.list_buckets(), users[-1])) < 1


def test_users_own_what_they_make(server, s3, alice, bob):
    (alice_id, alice_s3), (_, bob_s3) = alice, bob
    bucket = new_bucket(alice_s3)
    alice_s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    mine = alice_s3.list_buckets()
    assert bucket in [b["Name"] for b in mine["Buckets"]] and mine["Owner"] == {"ID": alice_id, "DisplayName": "alice"}
    assert bucket not in [b["Name"] for b in bob_s3.list_buckets()["Buckets"]]
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]], "root sees all"
    assert alice_s3.get_bucket_acl(Bucket=bucket)["Owner"]["ID"] == alice_id
    assert alice_s3.list_objects(Bucket=bucket)["Contents"][0]["Owner"]["ID"] == alice_id
    for call in [bob_s3.list_objects_v2, bob_s3.head_bucket, bob_s3.delete_bucket, bob_s3.get_bucket_location]:
        assert error_code(call, Bucket=bucket)[1] == 403
    for call, more in [(bob_s3.get_object, {}), (bob_s3.put_object, {"Body": b""}), (bob_s3.delete_object, {}),
                       (bob_s3.create_multipart_upload, {}), (bob_s3.get_object_tagging, {})]:
        assert error_code(call, Bucket=bucket, Key="k", **more) == DENIED
    refused = bob_s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]})["Errors"]
    assert [error["Code"] for error in refused] == ["AccessDenied"]
    copy = dict(Bucket=new_bucket(bob_s3), Key="k", CopySource={"Bucket": bucket, "Key": "k"})
    assert error_code(bob_s3.copy_object, **copy) == DENIED
    assert error_code(bob_s3.create_bucket, Bucket=bucket) == ("BucketAlreadyExists", 409)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1", "root may do everything"
    assert error_code(server.nobody().get_object, Bucket=bucket, Key="k") == DENIED
    assert error_code(server.nobody().list_buckets) == DENIED


def test_users_are_made_listed_and_removed(server):
    name = "u" + os.urandom(4).hex()
    made = json.loads(server.coffer("user", "add", name, "--json").stdout)
    listed = {user["name"]: user for user in json.loads(server.coffer("user", "list", "--json").stdout)}
    assert listed[name]["access_keys"] == made["access_keys"] and "secret_key" not in listed[name]
    clients = [server.client((made["access_keys"][0], made["secret_key"]), endpoint=gateway) for gateway in server.gateways]
    for client in clients:
        settled(client.list_buckets)
    again = server.coffer("user", "add", name, check=False)
    assert again.returncode == 2 and "there is a user of this name" in again.stderr
    taken = server.coffer("user", "add", name + "x", "--access-key", made["access_keys"][0], check=False)
    assert taken.returncode == 2, "an access key is never another's, too"
    server.coffer("user", "rm", name)
    for client in clients:
        assert settled(lambda: error_code(client.list_buckets)) == ("InvalidAccessKeyId", 403)
    assert server.coffer("user", "rm", name, check=False).returncode == 3


def test_only_root_manages_users(server, alice):
    assert requests.get(f"{server.admin}/api/v1/users").status_code == 403
    environment = {**os.environ, "COFFER_ACCESS_KEY": "coffer-test", "COFFER_SECRET_KEY": "not-the-secret"}
    denied = subprocess.run([BINARY, "user", "list", "--endpoint", server.admin], env=environment, capture_output=True)
    assert denied.returncode == 5


def test_a_policy_allows_and_denies(server, alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner)
    for key in ["open/k", "closed/k"]:
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert error_code(owner.get_bucket_policy, Bucket=bucket) == ("NoSuchBucketPolicy", 404)
    set_policy(server, owner, bucket, statement(bucket, ["s3:GetObject", "s3:ListBucket"], {"AWS": f"arn:aws:iam::coffer:user/bob"}),
               {**statement(bucket, "s3:*", {"CanonicalUser": bob_id}, "Deny"), "Resource": f"arn:aws:s3:::{bucket}/closed/*"})
    assert other.get_object(Bucket=bucket, Key="open/k")["Body"].read() == b"x"
    assert error_code(other.get_object, Bucket=bucket, Key="closed/k") == DENIED
    assert error_code(other.get_object, Bucket=bucket, Key="open/none") == ("NoSuchKey", 404), "may list, so may know"
    assert error_code(other.put_object, Bucket=bucket, Key="open/k", Body=b"") == DENIED
    assert error_code(other.get_bucket_policy, Bucket=bucket) == DENIED
    assert error_code(server.nobody().get_object, Bucket=bucket, Key="open/k") == DENIED
    # A copy reads its source as its caller.
    target = new_bucket(other)
    other.copy_object(Bucket=target, Key="k", CopySource={"Bucket": bucket, "Key": "open/k"})
    copy = dict(Bucket=target, Key="k", CopySource={"Bucket": bucket, "Key": "closed/k"})
    assert error_code(other.copy_object, **copy) == DENIED
    upload = other.create_multipart_upload(Bucket=target, Key="k")["UploadId"]
    assert error_code(other.upload_part_copy, **copy, UploadId=upload, PartNumber=1) == DENIED
    # A deny binds the owner, too, who can take it back.
    set_policy(server, owner, bucket, statement(bucket, "s3:*", effect="Deny"))
    assert error_code(owner.get_object, Bucket=bucket, Key="open/k") == DENIED
    owner.delete_bucket_policy(Bucket=bucket)
    assert settled(lambda: owner.get_object(Bucket=bucket, Key="open/k"))["Body"].read() == b"x"


def test_a_public_policy_lets_everybody_in_until_it_is_kept_out(server, alice):
    _, owner = alice
    bucket = new_bucket(owner)
    owner.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False
    set_policy(server, owner, bucket, statement(bucket, "s3:GetObject"))
    anybody = lambda: requests.get(f"{server.endpoint}/{bucket}/k")
    assert [anybody().status_code for _ in range(8)] == [200] * 8
    assert anybody().content == b"x"
    assert requests.get(f"{server.endpoint}/{bucket}/none").status_code == 403, "who may not list is not told"
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    block = dict(BlockPublicAcls=False, IgnorePublicAcls=False, BlockPublicPolicy=True, RestrictPublicBuckets=True)
    owner.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    server.settle(bucket)
    assert owner.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == block
    assert [anybody().status_code for _ in range(8)] == [403] * 8
    with pytest.raises(ClientError, match="AccessDenied"):
        set_policy(server, owner, bucket, statement(bucket, "s3:GetObject"))
    owner.delete_public_access_block(Bucket=bucket)
    server.settle(bucket)
    assert [anybody().status_code for _ in range(8)] == [200] * 8
    assert error_code(owner.get_public_access_block, Bucket=bucket) == ("NoSuchPublicAccessBlockConfiguration", 404)


def test_conditions_bind(server, alice, bob):
    (_, owner), (_, other) = alice, bob
    bucket = new_bucket(owner)
    owner.put_object(Bucket=bucket, Key="public", Body=b"", Tagging="class=open")
    owner.put_object(Bucket=bucket, Key="secret", Body=b"", Tagging="class=closed")
    set_policy(server, owner, bucket,
               statement(bucket, "s3:ListBucket", Condition={"StringLike": {"s3:prefix": "home/${aws:username}/*"}}),
               statement(bucket, "s3:GetObject", Condition={"StringEquals": {"s3:ExistingObjectTag/class": "open"}}),
               statement(bucket, ["s3:PutObject", "s3:PutObjectTagging"],
                         Condition={"StringEquals": {"s3:RequestObjectTag/class": "open"}}),
               statement(bucket, "s3:DeleteObject", Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}))
    assert other.list_objects_v2(Bucket=bucket, Prefix="home/bob/x")["KeyCount"] == 0
    for prefix in ["home/alice/", "home/", ""]:
        assert error_code(other.list_objects_v2, Bucket=bucket, Prefix=prefix) == DENIED
    other.get_object(Bucket=bucket, Key="public")
    assert error_code(other.get_object, Bucket=bucket, Key="secret") == DENIED
    other.put_object(Bucket=bucket, Key="new", Body=b"", Tagging="class=open")
    assert error_code(other.put_object, Bucket=bucket, Key="new", Body=b"") == DENIED
    tags = lambda value: {"TagSet": [{"Key": "class", "Value": value}]}
    other.put_object_tagging(Bucket=bucket, Key="new", Tagging=tags("open"))
    assert error_code(other.put_object_tagging, Bucket=bucket, Key="new", Tagging=tags("closed")) == DENIED
    assert error_code(other.delete_object, Bucket=bucket, Key="new") == DENIED


def test_policies_that_cannot_be_carried_out_are_refused(alice):
    _, owner = alice
    bucket = new_bucket(owner)
    good = statement(bucket, "s3:GetObject")
    for bad in ["no json", json.dumps({"Statement": [{**good, "Action": "s3:Nonsense"}]}),
                json.dumps({"Statement": [{**good, "Resource": "arn:aws:s3:::other/*"}]}),
                json.dumps({"Statement": [{**good, "Condition": {"StringEquals": {"s3:nonsense": "x"}}}]}),
                json.dumps({"Statement": [{**good, "Extra": 1}]})]:
        assert error_code(owner.put_bucket_policy, Bucket=bucket, Policy=bad) == ("MalformedPolicy", 400)
    assert error_code(owner.get_bucket_policy, Bucket=bucket)[0] == "NoSuchBucketPolicy"


def test_lists_are_off_by_default(server, alice):
    _, owner = alice
    bucket = new_bucket(owner)
    off = ("AccessControlListNotSupported", 400)
    for acl in ["bucket-owner-full-control", "private"]:
        owner.put_object(Bucket=bucket, Key="k", Body=b"", ACL=acl)
    assert error_code(owner.put_object, Bucket=bucket, Key="k", Body=b"", ACL="public-read") == off
    assert error_code(owner.put_bucket_acl, Bucket=bucket, ACL="public-read") == off
    assert error_code(owner.put_object_acl, Bucket=bucket, Key="k", ACL="private") == off
    assert owner.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"] == [
        {"ObjectOwnership": "BucketOwnerEnforced"}]
    wrong = dict(Bucket="b-" + os.urandom(8).hex(), ACL="public-read")
    assert error_code(owner.create_bucket, **wrong) == ("InvalidBucketAclWithObjectOwnership", 400)


def test_where_lists_are_off_private_is_the_list_of_the_owner_only(server, alice, bob):
    (alice_id, owner), (_, other) = alice, bob
    bucket = new_bucket(owner)
    set_policy(server, owner, bucket, {"Effect": "Allow", "Principal": "*", "Action": "s3:*",
                               "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]})
    other.put_object(Bucket=bucket, Key="k", Body=b"")
    other.put_object(Bucket=bucket, Key="k", Body=b"", ACL="bucket-owner-full-control")
    assert owner.get_object_acl(Bucket=bucket, Key="k")["Owner"]["ID"] == alice_id
    off, copied = ("AccessControlListNotSupported", 400), {"CopySource": {"Bucket": bucket, "Key": "k"}}
    for call, more in [(other.put_object, {}), (other.create_multipart_upload, {}), (other.copy_object, copied)]:
        assert error_code(call, Bucket=bucket, Key="l", ACL="private", **more) == off


def test_who_begins_an_upload_may_list_its_parts_and_abort_it(server, alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner)
    set_policy(server, owner, bucket, {"Effect": "Allow", "Principal": {"AWS": bob_id}, "Action": "s3:PutObject",
                               "Resource": f"arn:aws:s3:::{bucket}/*"})
    upload = other.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    mine = dict(Bucket=bucket, Key="k", UploadId=upload)
    other.upload_part(**mine, PartNumber=1, Body=b"x")
    listed = other.list_parts(**mine)
    assert len(listed["Parts"]) == 1 and listed["Initiator"]["ID"] == bob_id
    assert listed["Owner"]["ID"] == alice[0]
    shown = owner.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [(u["Initiator"]["ID"], u["Owner"]["ID"]) for u in shown] == [(bob_id, alice[0])]
    theirs = dict(mine, UploadId=owner.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"])
    for call in [other.list_parts, other.abort_multipart_upload]:
        assert error_code(call, **theirs) == DENIED
        assert error_code(call, **dict(mine, UploadId="0" * 32)) == DENIED
    assert error_code(other.list_multipart_uploads, Bucket=bucket) == DENIED
    other.abort_multipart_upload(**mine)
    assert error_code(owner.list_parts, **mine)[0] == "NoSuchUpload"
    # And the owner of the bucket may look after every upload.
    assert owner.list_parts(**theirs)["Initiator"]["ID"] == alice[0]
    # What a policy denies is denied.
    denied = other.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    set_policy(server, owner, bucket, {"Effect": "Deny", "Principal": "*", "Action": "s3:AbortMultipartUpload",
                               "Resource": f"arn:aws:s3:::{bucket}/*"})
    assert error_code(other.abort_multipart_upload, **dict(mine, UploadId=denied)) == DENIED


def test_lists_count_where_the_writer_owns(server, alice, bob):
    (alice_id, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter", ACL="public-read-write")
    nobody = server.nobody()
    owner.put_object(Bucket=bucket, Key="open", Body=b"x", ACL="public-read")
    owner.put_object(Bucket=bucket, Key="closed", Body=b"x")
    assert nobody.get_object(Bucket=bucket, Key="open")["Body"].read() == b"x"
    assert error_code(nobody.get_object, Bucket=bucket, Key="closed") == DENIED
    assert len(nobody.list_objects_v2(Bucket=bucket)["Contents"]) == 2
    other.put_object(Bucket=bucket, Key="bobs", Body=b"y")
    acl = other.get_object_acl(Bucket=bucket, Key="bobs")
    assert acl["Owner"]["ID"] == bob_id and len(acl["Grants"]) == 1
    assert error_code(other.get_object, Bucket=bucket, Key="closed") == DENIED
    before = owner.head_object(Bucket=bucket, Key="closed")
    owner.put_object_acl(Bucket=bucket, Key="closed", ACL="authenticated-read")
    after = owner.head_object(Bucket=bucket, Key="closed")
    assert (before["LastModified"], before["ETag"]) == (after["LastModified"], after["ETag"])
    assert other.get_object(Bucket=bucket, Key="closed")["Body"].read() == b"x"
    assert error_code(nobody.get_object, Bucket=bucket, Key="closed") == DENIED
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    refused = error_code(owner.put_bucket_ownership_controls, Bucket=bucket, OwnershipControls=enforced)
    assert refused == ("InvalidBucketAclWithObjectOwnership", 400)
    owner.put_bucket_acl(Bucket=bucket, ACL="private")
    settled(lambda: owner.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=enforced))
    server.settle(bucket)
    assert error_code(nobody.get_object, Bucket=bucket, Key="open") == DENIED
    assert owner.get_object_acl(Bucket=bucket, Key="bobs")["Owner"]["ID"] == alice_id


def test_the_expected_owner_is_checked(alice, bob):
    (alice_id, owner), (bob_id, _) = alice, bob
    bucket = new_bucket(owner)
    owner.put_object(Bucket=bucket, Key="k", Body=b"", ExpectedBucketOwner=alice_id)
    assert error_code(owner.put_object, Bucket=bucket, Key="k", Body=b"", ExpectedBucketOwner=bob_id) == DENIED
    assert error_code(owner.list_objects_v2, Bucket=bucket, ExpectedBucketOwner=bob_id) == DENIED
    copy = dict(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"})
    owner.copy_object(**copy, ExpectedSourceBucketOwner=alice_id)
    assert error_code(owner.copy_object, **copy, ExpectedSourceBucketOwner=bob_id) == DENIED
    assert error_code(owner.head_object, Bucket=bucket, Key="k", ExpectedBucketOwner=bob_id)[1] == 403
    for call in [owner.get_bucket_acl, owner.get_bucket_versioning, owner.delete_bucket]:
        assert error_code(call, Bucket=bucket, ExpectedBucketOwner=bob_id) == DENIED
        assert error_code(call, Bucket=bucket, ExpectedBucketOwner="0") == DENIED
    upload = owner.create_multipart_upload(Bucket=bucket, Key="k", ExpectedBucketOwner=alice_id)["UploadId"]
    part = dict(copy, Key="k", UploadId=upload, PartNumber=1)
    owner.upload_part_copy(**part, ExpectedSourceBucketOwner=alice_id)
    assert error_code(owner.upload_part_copy, **part, ExpectedSourceBucketOwner=bob_id) == DENIED
    assert error_code(owner.upload_part_copy, **part, ExpectedBucketOwner=bob_id) == DENIED


ANYBODY, SIGNED = ("http://acs.amazonaws.com/groups/global/" + group for group in ["AllUsers", "AuthenticatedUsers"])


def granted(acl):
    return {(grant["Grantee"].get("ID") or grant["Grantee"]["URI"], grant["Permission"]) for grant in acl["Grants"]}


@pytest.mark.parametrize("acl, grants, anybody, signed", [
    ("private", [], "", ""), ("public-read", [(ANYBODY, "READ")], "r", "r"),
    ("public-read-write", [(ANYBODY, "READ"), (ANYBODY, "WRITE")], "rw", "rw"),
    ("authenticated-read", [(SIGNED, "READ")], "", "r")])
def test_lists_of_buckets_grant_what_their_names_say(server, alice, bob, acl, grants, anybody, signed):
    (alice_id, owner), (_, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter", ACL=acl)
    assert granted(owner.get_bucket_acl(Bucket=bucket)) == {(alice_id, "FULL_CONTROL"), *grants}
    for client, may in [(server.nobody(), anybody), (other, signed)]:
        for permission, call, more in [("r", client.list_objects_v2, {}), ("r", client.list_multipart_uploads, {}),
                                       ("w", client.put_object, {"Key": "k", "Body": b""}), ("w", client.delete_object, {"Key": "k"})]:
            if permission in may:
                call(Bucket=bucket, **more)
            else:
                assert error_code(call, Bucket=bucket, **more) == DENIED
        assert error_code(client.get_bucket_acl, Bucket=bucket) == DENIED


@pytest.mark.parametrize("acl, grants", [
    ("private", []), ("public-read", [(ANYBODY, "READ")]), ("public-read-write", [(ANYBODY, "READ"), (ANYBODY, "WRITE")]),
    ("authenticated-read", [(SIGNED, "READ")]), ("bucket-owner-read", [("owner", "READ")]),
    ("bucket-owner-full-control", [("owner", "FULL_CONTROL")])])
def test_lists_of_objects_grant_what_their_names_say_by_every_way_to_write(server, alice, bob, acl, grants):
    (alice_id, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter", ACL="public-read-write")
    other.put_object(Bucket=bucket, Key="put", Body=b"x", ACL=acl)
    other.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "put"}, ACL=acl)
    upload = other.create_multipart_upload(Bucket=bucket, Key="parts", ACL=acl)["UploadId"]
    part = other.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    done = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    other.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=done)
    form = other.generate_presigned_post(bucket, "form", Fields={"acl": acl}, Conditions=[{"acl": acl}])
    assert requests.post(form["url"], data=form["fields"], files={"file": b"x"}).status_code == 204
    other.put_object(Bucket=bucket, Key="set", Body=b"x")
    other.put_object_acl(Bucket=bucket, Key="set", ACL=acl)
    expected = {(bob_id, "FULL_CONTROL"), *((alice_id if who == "owner" else who, may) for who, may in grants)}
    for key in ["put", "copy", "parts", "form", "set"]:
        found = other.get_object_acl(Bucket=bucket, Key=key)
        assert (found["Owner"]["ID"], granted(found)) == (bob_id, expected), key
        # As a document, it is the same list.
        other.put_object_acl(Bucket=bucket, Key=key, AccessControlPolicy={"Owner": found["Owner"], "Grants": found["Grants"]})
        assert granted(other.get_object_acl(Bucket=bucket, Key=key)) == expected, key
        read = requests.get(f"{server.endpoint}/{bucket}/{key}")
        assert read.status_code == (200 if (ANYBODY, "READ") in grants else 403), key
        assert error_code(server.nobody().get_object_acl, Bucket=bucket, Key=key) == DENIED


def test_a_policy_may_deny_the_list_of_a_new_object_by_every_way_to_write(server, alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter")
    may = statement(bucket, ["s3:GetObject", "s3:PutObject"], {"AWS": bob_id})
    public = {"StringLike": {"s3:x-amz-acl": "public-*"}}

    def post(client, acl):
        fields = {"acl": acl} if acl else {}
        form = client.generate_presigned_post(bucket, "form", Fields=fields, Conditions=[{"acl": acl}] if acl else [])
        status = requests.post(form["url"], data=form["fields"], files={"file": b"x"}).status_code
        assert status in (204, 403)
        return status == 204

    def refused(client, acl):
        """Which ways to write refuse a list; without one for None."""
        more = {"ACL": acl} if acl else {}
        calls = {"put": lambda: client.put_object(Bucket=bucket, Key="put", Body=b"x", **more),
                 "copy": lambda: client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "put"}, **more),
                 "upload": lambda: client.create_multipart_upload(Bucket=bucket, Key="upload", **more)}
        found = set() if post(client, acl) else {"form"}
        for name, call in calls.items():
            try:
                call()
            except ClientError as error:
                assert (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]) == DENIED, name
                found.add(name)
        return found

    everywhere = {"put", "copy", "upload", "form"}
    set_policy(server, owner, bucket, may)
    for acl in [None, "private", "public-read", "bucket-owner-full-control"]:
        assert refused(other, acl) == set(), "who may write needs no other permission"
    set_policy(server, owner, bucket, may, statement(bucket, "s3:PutObjectAcl", effect="Deny"))
    for client in [other, owner]:
        assert refused(client, None) == refused(client, "private") == set()
        assert refused(client, "public-read") == refused(client, "bucket-owner-full-control") == everywhere
        assert error_code(client.put_object, Bucket=bucket, Key="put", Body=b"", GrantRead=f"id={bob_id}") == DENIED
    set_policy(server, owner, bucket, may, statement(bucket, "s3:PutObjectAcl", effect="Deny", Condition=public))
    assert refused(other, "bucket-owner-full-control") == set() and refused(other, "public-read") == everywhere
    tagged = {"StringEquals": {"s3:ExistingObjectTag/acl": "fixed"}}
    set_policy(server, owner, bucket, may, statement(bucket, "s3:PutObjectAcl", effect="Deny", Condition=tagged))
    owner.put_object(Bucket=bucket, Key="put", Body=b"x", Tagging="acl=fixed")
    assert error_code(other.put_object, Bucket=bucket, Key="put", Body=b"", ACL="public-read") == DENIED
    other.put_object(Bucket=bucket, Key="new", Body=b"", ACL="public-read")


def test_lists_that_cannot_be_are_refused(alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter")
    owner.put_object(Bucket=bucket, Key="k", Body=b"x")
    kept = owner.get_object_acl(Bucket=bucket, Key="k")
    by_id = f"id={bob_id}"
    for call, more in [(owner.put_object, {"Key": "l", "Body": b""}), (owner.put_object_acl, {"Key": "k"}), (owner.put_bucket_acl, {})]:
        assert error_code(call, Bucket=bucket, **more, ACL="nonsense") == ("InvalidArgument", 400)
        assert error_code(call, Bucket=bucket, **more, ACL="private", GrantRead=by_id) == ("InvalidRequest", 400)
        assert error_code(call, Bucket=bucket, **more, GrantRead=by_id) == ("NotImplemented", 501)
    assert error_code(owner.put_object_acl, Bucket=bucket, Key="none", ACL="private") == ("NoSuchKey", 404)
    stranger = {"Owner": {"ID": bob_id}, "Grants": kept["Grants"]}
    assert error_code(owner.put_object_acl, Bucket=bucket, Key="k", AccessControlPolicy=stranger) == DENIED
    assert error_code(other.put_object_acl, Bucket=bucket, Key="k", ACL="public-read") == DENIED
    assert granted(owner.get_object_acl(Bucket=bucket, Key="k")) == granted(kept)
    assert "Contents" in owner.list_objects_v2(Bucket=bucket) and owner.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_a_public_access_block_keeps_public_lists_out(server, alice, bob):
    (_, owner), (_, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter")
    owner.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    read = lambda: requests.get(f"{server.endpoint}/{bucket}/k").status_code
    block = lambda **on: owner.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict(
        {name: False for name in ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"]}, **on))
    block(BlockPublicAcls=True)
    server.settle(bucket)
    source = {"CopySource": {"Bucket": bucket, "Key": "k"}}
    for acl in ["public-read", "public-read-write", "authenticated-read"]:
        for call, more in [(owner.put_object, {"Key": "l"}), (owner.put_object_acl, {"Key": "k"}), (owner.put_bucket_acl, {}),
                           (owner.create_multipart_upload, {"Key": "l"}), (owner.copy_object, {"Key": "l", **source})]:
            assert error_code(call, Bucket=bucket, **more, ACL=acl) == DENIED
    owner.put_object(Bucket=bucket, Key="l", Body=b"", ACL="bucket-owner-full-control")
    assert [read() for _ in range(4)] == [200] * 4, "what is there keeps its list"
    block(IgnorePublicAcls=True)
    server.settle(bucket)
    assert [read() for _ in range(4)] == [403] * 4
    assert error_code(other.get_object, Bucket=bucket, Key="k") == DENIED
    owner.put_bucket_acl(Bucket=bucket, ACL="public-read")
    server.settle(bucket)
    assert error_code(server.nobody().list_objects_v2, Bucket=bucket) == DENIED
    owner.delete_public_access_block(Bucket=bucket)
    server.settle(bucket)
    assert [read() for _ in range(4)] == [200] * 4
    assert server.nobody().list_objects_v2(Bucket=bucket)["KeyCount"] == 2


def test_who_owns_what_others_write_is_the_buckets_to_say(server, alice, bob):
    (alice_id, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="BucketOwnerPreferred", ACL="public-read-write")
    controls = lambda: [rule["ObjectOwnership"] for rule in owner.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]]
    assert controls() == ["BucketOwnerPreferred"]
    of = lambda key: owner.get_object_acl(Bucket=bucket, Key=key)["Owner"]["ID"]
    other.put_object(Bucket=bucket, Key="kept", Body=b"")
    other.put_object(Bucket=bucket, Key="given", Body=b"", ACL="bucket-owner-full-control")
    other.copy_object(Bucket=bucket, Key="copied", CopySource={"Bucket": bucket, "Key": "kept"}, ACL="bucket-owner-full-control")
    assert (of("kept"), of("given"), of("copied")) == (bob_id, alice_id, alice_id)
    owners = {item["Key"]: item["Owner"]["ID"] for item in owner.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"]}
    assert owners == {"kept": bob_id, "given": alice_id, "copied": alice_id}
    owner.delete_bucket_ownership_controls(Bucket=bucket)
    server.settle(bucket)
    assert error_code(owner.get_bucket_ownership_controls, Bucket=bucket) == ("OwnershipControlsNotFoundError", 404)
    other.put_object(Bucket=bucket, Key="after", Body=b"", ACL="bucket-owner-full-control")
    assert of("after") == bob_id, "then it is the writer's"
    for rules in [[], [{"ObjectOwnership": "Nonsense"}], [{"ObjectOwnership": "ObjectWriter"}] * 2]:
        wrong = dict(Bucket=bucket, OwnershipControls={"Rules": rules})
        assert error_code(owner.put_bucket_ownership_controls, **wrong) == ("MalformedXML", 400)
    assert error_code(other.put_bucket_ownership_controls, Bucket=bucket,
                      OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]}) == DENIED
    new = "b-" + os.urandom(8).hex()
    assert error_code(owner.create_bucket, Bucket=new, ObjectOwnership="Nonsense") == ("InvalidArgument", 400)
    owner.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]})
    assert settled(controls) == ["ObjectWriter"]


def beside(*calls):
    """Calls each of these again and again in threads while the block runs; what fails is told at its end."""
    stop, failed = threading.Event(), []

    def run(call):
        try:
            while not stop.is_set():
                call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]

    @contextlib.contextmanager
    def running():
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failed, failed

    return running()


def test_nobody_reads_what_becomes_private_while_it_is_asked_for(server, alice, bob):
    """Whoever may list is told that a key is not there, and who may read one object may not read the next of that name."""
    (_, owner), (_, other) = alice, bob
    bucket, target = new_bucket(owner, ObjectOwnership="ObjectWriter", ACL="public-read"), new_bucket(other)
    seen = collections.Counter()

    def read(key, method="GET"):
        answer = requests.request(method, f"{server.endpoint}/{bucket}/{key}")
        seen[answer.status_code] += 1
        assert answer.status_code in (200, 403, 404, 503), answer.status_code
        assert answer.status_code != 200 or (answer.headers["ETag"] == opened and answer.content in (b"", b"open")), key

    def copy():
        try:
            copied = other.copy_object(Bucket=target, Key="k", CopySource={"Bucket": bucket, "Key": "both"})
            assert copied["CopyObjectResult"]["ETag"] == opened
            seen["copied"] += 1
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404, 503), error
            seen["not copied"] += 1

    opened = owner.put_object(Bucket=bucket, Key="both", Body=b"open", ACL="public-read")["ETag"]
    for round in range(40):
        new = f"new{round}"
        with beside(lambda: read(new), lambda: read(new, "HEAD"), lambda: read("both"), lambda: read("both"), copy):
            for key, body, acl in [(new, b"closed", "private"), ("both", b"closed", "private"), ("both", b"open", "public-read")]:
                settled(lambda: owner.put_object(Bucket=bucket, Key=key, Body=body, ACL=acl))
        owner.delete_object(Bucket=bucket, Key="both")
        opened = owner.put_object(Bucket=bucket, Key="both", Body=b"open", ACL="public-read")["ETag"]
    assert all(seen[status] for status in (200, 403, 404, "copied", "not copied")), seen


def test_nobody_opens_what_somebody_else_has_written_meanwhile(server, alice, bob):
    (alice_id, owner), (_, other) = alice, bob
    bucket = new_bucket(owner, ObjectOwnership="ObjectWriter", ACL="public-read-write")
    answers = collections.Counter()

    def open_it():
        try:
            other.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
            answers["opened"] += 1
        except ClientError as error:
            code = error.response["Error"]["Code"]
            assert code in ("AccessDenied", "NoSuchKey", "OperationAborted", "ServiceUnavailable"), code
            answers[code] += 1

    for _ in range(40):
        other.put_object(Bucket=bucket, Key="k", Body=b"bob's")
        with beside(open_it, open_it, open_it):
            settled(lambda: owner.put_object(Bucket=bucket, Key="k", Body=b"alice's"))
        acl = owner.get_object_acl(Bucket=bucket, Key="k")
        assert granted(acl) == {(alice_id, "FULL_CONTROL")}
        owner.delete_object(Bucket=bucket, Key="k")
        assert error_code(other.put_object_acl, Bucket=bucket, Key="k", ACL="public-read") == ("NoSuchKey", 404)
    assert answers["opened"] and answers["AccessDenied"], answers


def test_nobodys_list_of_keys_to_delete_is_not_read_where_nobody_may_delete(server, alice):
    _, owner = alice
    closed, open_ = new_bucket(owner), new_bucket(owner, ObjectOwnership="ObjectWriter", ACL="public-read-write")
    owner.put_object(Bucket=closed, Key="k", Body=b"")
    owner.put_object(Bucket=open_, Key="k", Body=b"")
    keys = {"Objects": [{"Key": "k"}]}
    assert error_code(server.nobody().delete_objects, Bucket=closed, Delete=keys) == DENIED
    # The answer does not wait for a body that never comes.
    address = server.gateways[0].rpartition("/")[2]
    with socket.create_connection(address.split(":"), timeout=PATIENCE) as connection:
        connection.sendall(f"POST /{closed}?delete HTTP/1.1\r\nHost: {address}\r\nContent-Length: 4000000\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 403 ") and b"<Code>AccessDenied</Code>" in answer
    assert [item["Key"] for item in server.nobody().delete_objects(Bucket=open_, Delete=keys)["Deleted"]] == ["k"]
    set_policy(server, owner, closed, {"Effect": "Allow", "Principal": "*", "Action": "s3:DeleteObject",
                                       "Resource": f"arn:aws:s3:::{closed}/k"})
    both = server.nobody().delete_objects(Bucket=closed, Delete={"Objects": [{"Key": "k"}, {"Key": "l"}]})
    assert [item["Key"] for item in both["Deleted"]] == ["k"]
    assert [(item["Key"], item["Code"]) for item in both["Errors"]] == [("l", "AccessDenied")]


def test_documents_of_more_elements_than_any_needs_are_refused(server, alice):
    bucket = new_bucket(alice[1], ObjectOwnership="ObjectWriter", ACL="public-read-write")
    delete = lambda more: requests.post(f"{server.endpoint}/{bucket}?delete", data=f"<Delete>{more}<Object><Key>k</Key></Object></Delete>")
    answer = delete("<a/>" * 900_000)
    assert answer.status_code == 400 and "<Code>MalformedXML</Code>" in answer.text
    assert delete("<a/>").status_code == 200


def test_a_copy_that_takes_tags_along_needs_to_read_and_write_them(server, alice, bob):
    (_, owner), (_, other) = alice, bob
    source, target = new_bucket(owner), new_bucket(owner)
    owner.put_bucket_versioning(Bucket=source, VersioningConfiguration={"Status": "Enabled"})
    version = owner.put_object(Bucket=source, Key="tagged", Body=b"x", Tagging="a=1")["VersionId"]
    owner.put_object(Bucket=source, Key="plain", Body=b"x")

    def allow(reads, writes):
        set_policy(server, owner, source, statement(source, ["s3:GetObject", "s3:GetObjectVersion", *reads]))
        set_policy(server, owner, target, statement(target, ["s3:PutObject", *writes]))

    def copy(key, version={}, **more):
        other.copy_object(Bucket=target, Key="k", CopySource={"Bucket": source, "Key": key, **version}, **more)
        return [tag["Key"] for tag in owner.get_object_tagging(Bucket=target, Key="k")["TagSet"]]

    version = {"VersionId": version}
    for reads, writes in [([], []), (["s3:GetObjectTagging", "s3:GetObjectVersionTagging"], []), ([], ["s3:PutObjectTagging"])]:
        allow(reads, writes)
        assert copy("plain") == [] and copy("tagged", TaggingDirective="REPLACE") == []
        assert error_code(copy, key="tagged") == error_code(copy, key="tagged", version=version) == DENIED
        assert error_code(copy, key="tagged", MetadataDirective="REPLACE") == DENIED
    allow(["s3:GetObjectTagging"], ["s3:PutObjectTagging"])
    assert copy("tagged") == copy("tagged", MetadataDirective="REPLACE") == ["a"]
    assert error_code(copy, key="tagged", version=version) == DENIED
    allow(["s3:GetObjectVersionTagging"], ["s3:PutObjectTagging"])
    assert copy("tagged", version) == ["a"] and error_code(copy, key="tagged") == DENIED
    # The bytes of a part are all that is copied of its source.
    upload = other.create_multipart_upload(Bucket=target, Key="k")["UploadId"]
    part = dict(Bucket=target, Key="k", UploadId=upload, PartNumber=1, CopySource={"Bucket": source, "Key": "tagged"})
    assert other.upload_part_copy(**part)["CopyPartResult"]["ETag"]


def test_a_source_that_is_not_there_is_for_who_may_list_where_it_would_be(server, alice, bob):
    (_, owner), (_, other) = alice, bob
    listed, closed, mine = new_bucket(owner), new_bucket(owner), new_bucket(other)
    set_policy(server, owner, listed, statement(listed, ["s3:GetObject", "s3:ListBucket"]))
    set_policy(server, owner, closed, statement(closed, ["s3:GetObject", "s3:PutObject"]))
    for target in [closed, mine]:
        upload = other.create_multipart_upload(Bucket=target, Key="k")["UploadId"]
        for call, more in [(other.copy_object, {}), (other.upload_part_copy, {"UploadId": upload, "PartNumber": 1})]:
            copy = lambda source: error_code(call, Bucket=target, Key="k", CopySource={"Bucket": source, "Key": "none"}, **more)
            assert copy(listed) == ("NoSuchKey", 404)
            assert copy(closed) == DENIED
    assert error_code(other.copy_object, Bucket=mine, Key="k", CopySource={"Bucket": mine, "Key": "none"}) == ("NoSuchKey", 404)
