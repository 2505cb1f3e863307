// A round trip with minio-js: put, parts, get, list, delete. Prints nothing, and exits with 0.
const assert = require("node:assert");
const crypto = require("node:crypto");
const { Readable } = require("node:stream");
const { buffer } = require("node:stream/consumers");
const { Client } = require("minio");

const { ENDPOINT, AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey } = process.env;
const { hostname: endPoint, port } = new URL(ENDPOINT);
const client = new Client({ endPoint, port: Number(port), useSSL: false, accessKey, secretKey, partSize: 8 * 1024 * 1024 });
const bucket = "minio-js-" + crypto.randomBytes(4).toString("hex");
const bodies = { "a folder/small ü": Buffer.from("small"), large: crypto.randomBytes(17 * 1024 * 1024) };

(async () => {
  await client.makeBucket(bucket);
  for (const [key, body] of Object.entries(bodies)) await client.putObject(bucket, key, Readable.from([body]), body.length);
  assert.match((await client.statObject(bucket, "large")).etag, /-/);
  for (const [key, body] of Object.entries(bodies)) assert.ok((await buffer(await client.getObject(bucket, key))).equals(body), key);
  const listed = await client.listObjectsV2(bucket, "", true).toArray();
  assert.deepEqual(listed.map((item) => item.name), Object.keys(bodies));
  await client.removeObjects(bucket, Object.keys(bodies));
  await client.removeBucket(bucket);
})();
