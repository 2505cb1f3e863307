use super::histogram::Histogram;
use super::plan::{Mix, Op, Size};
use super::sign::{Request, Signer, escape};

/// The GET Object example of Amazon's documents, with only the headers that we send.
#[test]
fn signatures_are_stable_and_depend_on_every_part() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let sign = |method: &str, path: &str, query: &str, seconds: u64| {
        let mut signer =
            Signer::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1");
        let host = "examplebucket.s3.amazonaws.com";
        signer.sign(&Request { method, host, path, query, payload_hash: empty }, seconds)
    };
    // Amazon's example "GET Bucket (List Objects)", 2013-05-24 00:00:00 UTC.
    let list = sign("GET", "/", "max-keys=2&prefix=J", 1_369_353_600);
    assert_eq!(list.date, "20130524T000000Z");
    assert!(
        list.authorization
            .ends_with("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        "{}",
        list.authorization
    );
    assert_ne!(list, sign("PUT", "/", "max-keys=2&prefix=J", 1_369_353_600));
    assert_eq!(sign("GET", "/", "", 1_709_251_199).date, "20240229T235959Z");
    assert_eq!(sign("GET", "/", "", 1_709_251_200).date, "20240301T000000Z");
}

#[test]
fn quantiles_are_within_a_sixty_fourth() {
    let mut histogram = Histogram::default();
    assert_eq!(histogram.quantile_us(0.5), 0);
    (1..=100_000).for_each(|us| histogram.record(us));
    for (part, exact) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
        let error = (histogram.quantile_us(part) as f64 / exact - 1.0).abs();
        assert!(error <= 1.0 / 64.0, "{part}: {error}");
    }
    let mut both = Histogram::default();
    both.record(5);
    both.merge(&histogram);
    assert_eq!((both.count(), both.max_us(), both.quantile_us(0.0)), (100_001, 100_000, 1));
}

#[test]
fn sizes_and_mixes_are_read() {
    let size = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
    assert_eq!(size("0"), Some(0));
    assert_eq!(size("4KiB"), Some(4096));
    assert_eq!(size("64 MiB"), Some(64 << 20));
    assert_eq!(size("1GB"), Some(1_000_000_000));
    assert_eq!(size("4XB"), None);
    assert_eq!(size("-1"), None);

    let mix: Mix = "get=2,put=1".parse().unwrap();
    let picks: Vec<Op> = (0..6).map(|i| mix.pick(i)).collect();
    assert_eq!(picks, [Op::Put, Op::Get, Op::Get, Op::Put, Op::Get, Op::Get]);
    assert!("".parse::<Mix>().is_err());
    assert!("get=0".parse::<Mix>().is_err());
    assert!("head=1".parse::<Mix>().is_err());
    assert_eq!(escape("run 1/x~"), "run%201%2Fx~");
}
