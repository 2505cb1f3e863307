use super::*;

const FIRST: &str = "first:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SECOND: &str = "second:HxEeHRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgE=";

fn keys(lines: &[&str]) -> Keyring {
    Keyring::parse(&lines.join("\n")).unwrap()
}

fn customer(byte: u8) -> CustomerKey {
    CustomerKey::new(&[byte; 32]).unwrap()
}

fn name(text: &str) -> ObjectKey {
    ObjectKey::new(text.to_owned()).unwrap()
}

fn op(counter: u64) -> OpId {
    OpId { session: 1, counter }
}

#[test]
fn what_is_sealed_in_a_place_opens_there_and_nowhere_else() {
    let (here, there) = (name("here"), name("there"));
    let keys = keys(&[FIRST, SECOND]);
    let place = Place::op(BucketId(7), &here, op(1));
    for (wanted, brought, seen_as) in [
        (Encrypt::Customer(customer(1)), Some(customer(1)), Encrypted::Customer),
        (Encrypt::Managed, None, Encrypted::Managed),
        (Encrypt::Named("second".to_owned()), None, Encrypted::Named("second".to_owned())),
    ] {
        let Sealed { encryption, data_key } = seal(&keys, &wanted, place).unwrap().unwrap();
        assert_eq!(seen(&encryption), seen_as);
        let opened = |place| open(&keys, Some(&encryption), brought.as_ref(), place);
        assert_eq!(opened(place), Ok(Some(data_key)));
        for elsewhere in [
            Place::op(BucketId(8), &here, op(1)),
            Place::op(BucketId(7), &there, op(1)),
            Place::op(BucketId(7), &here, op(2)),
            Place::upload(BucketId(7), &here, UploadId(9)),
        ] {
            assert!(
                matches!(opened(elsewhere), Err(EncryptionError::WrongKey | EncryptionError::Unopened(_))),
                "{wanted:?} {elsewhere:?}"
            );
        }
    }
}

#[test]
fn a_scheme_cannot_be_taken_for_another() {
    let here = name("here");
    let (keys, place) = (keys(&[FIRST]), Place::op(BucketId(7), &here, op(1)));
    let sealed = seal(&keys, &Encrypt::Managed, place).unwrap().unwrap().encryption;
    let named = Encryption { scheme: EncryptionScheme::Named, ..sealed };
    assert_eq!(open(&keys, Some(&named), None, place), Err(EncryptionError::Unopened("first".to_owned())));
}

#[test]
fn a_customers_key_is_demanded_checked_and_refused_where_there_is_none() {
    let here = name("here");
    let (none, place) = (Keyring::default(), Place::op(BucketId(7), &here, op(1)));
    let sealed = seal(&none, &Encrypt::Customer(customer(1)), place).unwrap().unwrap().encryption;
    assert_eq!(sealed.key_id, "");
    let with = |key: Option<u8>| Unlock::With(key.map(customer));
    for (encryption, brought, expected) in [
        (Some(&sealed), Some(1), Ok(())),
        (Some(&sealed), Some(2), Err(EncryptionError::WrongKey)),
        (Some(&sealed), None, Err(EncryptionError::KeyNeeded)),
        (None, Some(1), Err(EncryptionError::NotApplicable)),
        (None, None, Ok(())),
    ] {
        assert_eq!(prove(encryption, &with(brought), place), expected);
        let opened = open(&none, encryption, brought.map(customer).as_ref(), place);
        assert_eq!(opened.map(|_| ()), expected);
    }
    assert_eq!(prove(Some(&sealed), &Unlock::Nothing, place), Ok(()));
}

#[test]
fn a_key_that_is_missing_is_named_and_another_of_its_name_opens_nothing() {
    let here = name("here");
    let place = Place::op(BucketId(7), &here, op(1));
    let both = keys(&[FIRST, SECOND]);
    let sealed = seal(&both, &Encrypt::Managed, place).unwrap().unwrap().encryption;
    assert_eq!(sealed.key_id, "first");
    let missing = |keys: &Keyring| open(keys, Some(&sealed), None, place);
    assert!(missing(&keys(&[SECOND, FIRST])).is_ok(), "a new key goes above, the old one stays");
    for other in [Keyring::default(), keys(&[SECOND])] {
        assert_eq!(missing(&other), Err(EncryptionError::MissingKey("first".to_owned())));
    }
    let same_name = keys(&[&FIRST.replace("AAEC", "BBEC")]);
    assert_eq!(missing(&same_name), Err(EncryptionError::Unopened("first".to_owned())));
    // Headers of an object of the keyring are told without its key.
    assert_eq!(prove(Some(&sealed), &Unlock::default(), place), Ok(()));
    assert_eq!(
        prove(Some(&sealed), &Unlock::With(Some(customer(1))), place),
        Err(EncryptionError::NotApplicable)
    );
}

#[test]
fn keys_that_are_not_there_are_not_written_with() {
    let here = name("here");
    let place = Place::op(BucketId(7), &here, op(1));
    let wanted = |keys: &Keyring, wanted| seal(keys, &wanted, place).map(|sealed| sealed.is_some());
    let (none, some) = (Keyring::default(), keys(&[FIRST]));
    assert_eq!(wanted(&none, Encrypt::No), Ok(false));
    assert_eq!(wanted(&none, Encrypt::Managed), Err(EncryptionError::NoKeyring));
    assert_eq!(wanted(&none, Encrypt::Named("first".to_owned())), Err(EncryptionError::NoKeyring));
    let unknown = Err(EncryptionError::UnknownKey("other".to_owned()));
    assert_eq!(wanted(&some, Encrypt::Named("other".to_owned())), unknown);
}
