// A round trip with the AWS SDK for JavaScript: put, parts, get, list, delete. Prints nothing, and exits with 0.
const assert = require("node:assert");
const crypto = require("node:crypto");
const { S3 } = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");

const client = new S3({ endpoint: process.env.ENDPOINT, forcePathStyle: true });
const Bucket = "aws-sdk-js-" + crypto.randomBytes(4).toString("hex");
const bodies = { "a folder/small ü": Buffer.from("small"), large: crypto.randomBytes(17 * 1024 * 1024) };

(async () => {
  await client.createBucket({ Bucket });
  for (const [Key, Body] of Object.entries(bodies)) await new Upload({ client, params: { Bucket, Key, Body } }).done();
  assert.match((await client.headObject({ Bucket, Key: "large" })).ETag, /-/);
  for (const [Key, body] of Object.entries(bodies)) {
    const { Body } = await client.getObject({ Bucket, Key });
    assert.ok(Buffer.from(await Body.transformToByteArray()).equals(body), Key);
  }
  const { Contents } = await client.listObjectsV2({ Bucket });
  assert.deepEqual(Contents.map((item) => item.Key), Object.keys(bodies));
  await client.deleteObjects({ Bucket, Delete: { Objects: Object.keys(bodies).map((Key) => ({ Key })) } });
  await client.deleteBucket({ Bucket });
})();
