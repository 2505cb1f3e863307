// A round trip with minio-go: put, parts, get, list, delete. Prints nothing, and exits with 0.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	endpoint, err := url.Parse(os.Getenv("ENDPOINT"))
	must(err)
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds: credentials.NewStaticV4(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
	must(err)
	ctx, bucket, large := context.Background(), "minio-go-"+strings.ToLower(rand.Text()), make([]byte, 17<<20)
	_, _ = rand.Read(large)
	keys, bodies := []string{"a folder/small ü", "large"}, [][]byte{[]byte("small"), large}
	must(client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}))
	for i, key := range keys {
		_, err := client.PutObject(ctx, bucket, key, bytes.NewReader(bodies[i]), int64(len(bodies[i])), minio.PutObjectOptions{PartSize: 8 << 20})
		must(err)
		object, err := client.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
		must(err)
		body, err := io.ReadAll(object)
		must(err)
		if !bytes.Equal(body, bodies[i]) {
			log.Fatalf("%s came back changed", key)
		}
	}
	if info, err := client.StatObject(ctx, bucket, "large", minio.StatObjectOptions{}); err != nil || !strings.Contains(info.ETag, "-") {
		log.Fatal("the large one did not go in parts: ", err)
	}
	var listed []string
	for item := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
		must(item.Err)
		listed = append(listed, item.Key)
	}
	if fmt.Sprint(listed) != fmt.Sprint(keys) {
		log.Fatal("listed ", listed)
	}
	for _, key := range keys {
		must(client.RemoveObject(ctx, bucket, key, minio.RemoveObjectOptions{}))
	}
	must(client.RemoveBucket(ctx, bucket))
}
