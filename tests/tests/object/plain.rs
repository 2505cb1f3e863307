//! Buckets, and objects of every size class.

use coffer_gateway::object::{
    Access, CopyAttributes, CopyError, CopyObject, CopySource, CreateBucketError, DeleteBucketError,
    DeleteObject, Encrypt, GetError, HeadBucketError, Owner, PutError, ReadCondition, Select, StorageClass,
    WriteCondition,
};

use crate::body::*;
use crate::cluster::Bench;

const SIZES: [usize; 9] = [0, 1, 5, 4096, 262_144, 262_145, 1_048_576, 3_000_001, 9_437_184];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_every_size_read_back_whole_and_in_ranges() {
    for (nodes, drives) in [(1, 1), (1, 4), (5, 1)] {
        let bench = Bench::start(nodes, drives).await;
        make_bucket(&bench.store, "bucket").await;
        for (seed, len) in SIZES.into_iter().enumerate() {
            let data = bytes(len, seed as u64);
            let k = format!("k{len}");
            let info = put(&bench.store, "bucket", &k, &data).await.unwrap();
            assert_eq!((info.size, info.etag), (len as u64, etag(&data)));
            assert_eq!(get(&bench.store, "bucket", &k).await.unwrap(), data, "{nodes}x{drives} {len}");
            if len > 2 {
                let (first, last) = (len / 3, len / 2);
                let select = Select::Range { first: first as u64, last: Some(last as u64) };
                let part = get_part(&bench.store, "bucket", &k, select).await.unwrap();
                assert_eq!(part, data.slice(first..=last));
                let tail = get_part(&bench.store, "bucket", &k, Select::Suffix(2)).await.unwrap();
                assert_eq!(tail, data.slice(len - 2..));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_replaces_and_a_delete_hides() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    let (old, new) = (bytes(300_000, 1), bytes(10, 2));
    put(&bench.store, "bucket", "k", &old).await.unwrap();
    put(&bench.store, "bucket", "k", &new).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), new);
    let delete = || DeleteObject {
        bucket: name("bucket"),
        key: key("k"),
        version: None,
        condition: WriteCondition::Always,
        bypass_governance: false,
    };
    bench.store.delete_object(delete()).await.unwrap();
    bench.store.delete_object(delete()).await.unwrap();
    assert!(matches!(get(&bench.store, "bucket", "k").await, Err(ReadFailure::Get(GetError::NoSuchKey))));
    put(&bench.store, "bucket", "k", &old).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_are_judged_on_the_current_version() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    for len in [10, 2_000_000] {
        let data = bytes(len, 3);
        let k = format!("k{len}");
        let conditional = |condition| {
            let mut request = put_request("bucket", &k, body(&data));
            request.condition = condition;
            bench.store.put_object(request)
        };
        let missing = conditional(WriteCondition::EtagIn(vec!["x".into()])).await;
        assert!(matches!(missing, Err(PutError::NoSuchKey)), "{missing:?}");
        conditional(WriteCondition::Absent).await.unwrap();
        let taken = conditional(WriteCondition::Absent).await;
        assert!(matches!(taken, Err(PutError::ConditionFailed)), "{taken:?}");
        let other = conditional(WriteCondition::EtagIn(vec!["x".into()])).await;
        assert!(matches!(other, Err(PutError::ConditionFailed)), "{other:?}");
        conditional(WriteCondition::EtagIn(vec![etag(&data)])).await.unwrap();
        assert_eq!(get(&bench.store, "bucket", &k).await.unwrap(), data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_that_need_an_absent_key_one_wins() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let other = bench.gateway().await;
    let mut writers = Vec::new();
    for seed in 0..8 {
        let store = if seed % 2 == 0 { bench.store.clone() } else { other.clone() };
        writers.push(tokio::spawn(async move {
            let data = bytes(100, seed);
            let mut request = put_request("bucket", "one", body(&data));
            request.condition = WriteCondition::Absent;
            store.put_object(request).await.map(|info| info.etag)
        }));
    }
    let mut winners = Vec::new();
    for writer in writers {
        match writer.await.unwrap() {
            Ok(etag) => winners.push(etag),
            Err(PutError::ConditionFailed | PutError::Conflict | PutError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(etag(&get(&bench.store, "bucket", "one").await.unwrap()), winners[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_leaves_nothing() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    for len in [10, 3_000_000] {
        let data = bytes(len, 4);
        let refused = bench.store.put_object(put_request("bucket", "k", refused_body(&data))).await;
        assert!(matches!(refused, Err(PutError::Body(_))), "{refused:?}");
        let mut short = body(&data);
        short.length += 1;
        let short = bench.store.put_object(put_request("bucket", "k", short)).await;
        assert!(matches!(short, Err(PutError::Body(_))), "{short:?}");
        let mut long = body(&data);
        long.length -= 1;
        let long = bench.store.put_object(put_request("bucket", "k", long)).await;
        assert!(matches!(long, Err(PutError::Body(_))), "{long:?}");
        assert!(matches!(get(&bench.store, "bucket", "k").await, Err(ReadFailure::Get(GetError::NoSuchKey))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_made_found_and_deleted_when_empty() {
    let bench = Bench::start(1, 4).await;
    let store = &bench.store;
    assert!(matches!(store.head_bucket(&name("bucket")).await, Err(HeadBucketError::NoSuchBucket)));
    make_bucket(store, "bucket").await;
    let again = store.create_bucket(new_bucket("bucket")).await;
    assert!(matches!(again, Err(CreateBucketError::Exists(_))));
    let other = bench.gateway().await;
    assert_eq!(other.list_buckets().await.unwrap().len(), 1);
    put(&other, "bucket", "k", &bytes(5, 1)).await.unwrap();
    assert!(matches!(store.delete_bucket(&name("bucket")).await, Err(DeleteBucketError::NotEmpty)));
    let delete = DeleteObject {
        bucket: name("bucket"),
        key: key("k"),
        version: None,
        condition: WriteCondition::Always,
        bypass_governance: false,
    };
    store.delete_object(delete).await.unwrap();
    store.delete_bucket(&name("bucket")).await.unwrap();
    assert!(matches!(store.delete_bucket(&name("bucket")).await, Err(DeleteBucketError::NoSuchBucket)));
    assert!(store.list_buckets().await.unwrap().is_empty());
    make_bucket(store, "bucket").await;
    assert!(matches!(get(store, "bucket", "k").await, Err(ReadFailure::Get(GetError::NoSuchKey))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_bytes_and_the_attributes_asked_for() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    let data = bytes(2_000_000, 6);
    let mut request = put_request("bucket", "from", body(&data));
    request.attributes.content_type = Some("text/plain".into());
    bench.store.put_object(request).await.unwrap();
    let copy = |from: &str| CopyObject {
        source: CopySource {
            bucket: name("bucket"),
            key: key(from),
            version: None,
            condition: ReadCondition::default(),
            customer_key: None,
        },
        bucket: name("bucket"),
        key: key("to"),
        attributes: CopyAttributes::FromSource {
            storage_class: StorageClass::ReducedRedundancy,
            tags: None,
            access: Access::Private,
            retention: None,
            legal_hold: false,
            website_redirect: None,
        },
        owner: Owner::default(),
        condition: WriteCondition::Always,
        encrypt: Encrypt::No,
        digester: Box::new(|_, _| Ok(digester())),
    };
    let info = bench.store.copy_object(copy("from")).await.unwrap();
    assert_eq!((info.etag, info.attributes.content_type.as_deref()), (etag(&data), Some("text/plain")));
    assert_eq!(get(&bench.store, "bucket", "to").await.unwrap(), data);
    let missing = bench.store.copy_object(copy("none")).await;
    assert!(matches!(missing, Err(CopyError::Source(GetError::NoSuchKey))));
}
