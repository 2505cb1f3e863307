//! A user's record at the coordinator, and its changes.

use bytes::Bytes;
use coffer_common::coordination::{Change, Coordinator, CoordinatorError, Entry, Expected, Write};
use coffer_common::meta::Owner;
use coffer_common::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Where records lie.
pub(super) const USERS: &str = "iam/users/";
/// Where access keys name their users.
const KEYS: &str = "iam/keys/";
/// What no user can be called.
pub(super) const ROOT_NAME: &str = "root";
/// Longest name (as IAM has it).
const MAX_NAME_CHARS: usize = 64;
/// Lengths of access keys and secret keys.
const ACCESS_KEY_CHARS: std::ops::RangeInclusive<usize> = 3..=128;
const SECRET_KEY_CHARS: std::ops::RangeInclusive<usize> = 8..=128;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its name.
    pub name: String,
    /// Its canonical id: owns what it creates, and is never used again.
    pub id: String,
    /// When it was made.
    pub created_ms: u64,
    /// The keys it signs with.
    pub keys: Vec<AccessKey>,
}

/// A key pair.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// The part that requests name.
    pub access_key: String,
    /// The part that signs.
    pub secret_key: String,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl UserRecord {
    /// What it owns carries this.
    pub fn owner(&self) -> Owner {
        Owner { id: self.id.clone(), display_name: self.name.clone() }
    }
}

/// A user to be made; keys that are not given are chosen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AddUser {
    /// Its name.
    pub name: String,
    /// Its access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Its secret key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
}

/// A user cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// What was given cannot be used.
    #[error("{what} is not usable: {reason}")]
    Invalid {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The name or the key is taken.
    #[error("there is a user of this name, or the access key is another's already")]
    Taken,
    /// There is none of this name.
    #[error("there is no user `{0}`")]
    NotFound(String),
    /// The coordinator does not answer; after a change the outcome is unknown.
    #[error("the coordinator does not answer: {0}")]
    Unavailable(String),
}

/// Reads a record.
pub(super) fn decode(entry: &Entry) -> Result<UserRecord, serde_json::Error> {
    serde_json::from_slice(&entry.value)
}

/// A record's bytes.
pub(super) fn encode(record: &UserRecord) -> Bytes {
    serde_json::to_vec(record).expect("texts and numbers are JSON").into()
}

/// Makes a user. `reserved` is root's access key.
///
/// # Errors
/// [`UserError`].
pub async fn add(
    coordinator: &dyn Coordinator,
    user: AddUser,
    reserved: &str,
) -> Result<UserRecord, UserError> {
    let AddUser { name, access_key, secret_key } = user;
    check_name(&name)?;
    let access_key = access_key.unwrap_or_else(|| random_text(20).to_uppercase());
    let secret_key = secret_key.unwrap_or_else(|| random_text(40));
    check_key("the access key", &access_key, ACCESS_KEY_CHARS)?;
    check_key("the secret key", &secret_key, SECRET_KEY_CHARS)?;
    if access_key == reserved {
        return Err(UserError::Taken);
    }
    let record = UserRecord {
        id: random_text(64),
        created_ms: UnixMillis::now().0,
        keys: vec![AccessKey { access_key: access_key.clone(), secret_key }],
        name: name.clone(),
    };
    let put = |key: String, value: Bytes| Write {
        key,
        expected: Expected::Absent,
        change: Change::Put { value, leased: false },
    };
    let writes = vec![
        put(format!("{USERS}{name}"), encode(&record)),
        put(format!("{KEYS}{access_key}"), name.into_bytes().into()),
    ];
    match coordinator.transaction(writes).await {
        Ok(_) => Ok(record),
        Err(CoordinatorError::Conflict { .. }) => Err(UserError::Taken),
        Err(error) => Err(UserError::Unavailable(error.to_string())),
    }
}

/// Removes a user with its keys. What it owns stays, and is still its own.
///
/// # Errors
/// [`UserError`].
pub async fn remove(coordinator: &dyn Coordinator, name: &str) -> Result<UserRecord, UserError> {
    let unavailable = |error: CoordinatorError| UserError::Unavailable(error.to_string());
    loop {
        let not_found = || UserError::NotFound(name.to_owned());
        let entry = coordinator.get(&format!("{USERS}{name}")).await.map_err(unavailable)?;
        let entry = entry.ok_or_else(not_found)?;
        let record = decode(&entry).map_err(|error| UserError::Unavailable(error.to_string()))?;
        let delete = |key, expected| Write { key, expected, change: Change::Delete };
        let keys = record.keys.iter().map(|key| delete(format!("{KEYS}{}", key.access_key), Expected::Any));
        let writes = keys.chain([delete(entry.key, Expected::Revision(entry.revision))]).collect();
        match coordinator.transaction(writes).await {
            Ok(_) => return Ok(record),
            // Somebody else has changed it: look again.
            Err(CoordinatorError::Conflict { .. }) => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
}

/// All users by name.
///
/// # Errors
/// [`UserError::Unavailable`].
pub async fn list(coordinator: &dyn Coordinator) -> Result<Vec<UserRecord>, UserError> {
    let listing = coordinator.list(USERS).await.map_err(|error| UserError::Unavailable(error.to_string()))?;
    let records = listing.entries.iter().map(decode).collect::<Result<_, _>>();
    records.map_err(|error| UserError::Unavailable(error.to_string()))
}

fn check_name(name: &str) -> Result<(), UserError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    let reason = if name.is_empty() || name.len() > MAX_NAME_CHARS {
        format!("it must have 1 to {MAX_NAME_CHARS} characters")
    } else if !name.chars().all(known) {
        "only letters, digits and + = , . @ _ - are possible".to_owned()
    } else if name == ROOT_NAME {
        "root is who has the gateway's own keys".to_owned()
    } else {
        return Ok(());
    };
    Err(UserError::Invalid { what: "the name", reason })
}

fn check_key(
    what: &'static str,
    key: &str,
    length: std::ops::RangeInclusive<usize>,
) -> Result<(), UserError> {
    let reason = if !length.contains(&key.len()) {
        format!("it must have {} to {} characters", length.start(), length.end())
    } else if !key.chars().all(|c| c.is_ascii_graphic())
        || key.contains(['/', ',', '=', ':']) && what.contains("access")
    {
        "it holds what signatures cannot carry".to_owned()
    } else {
        return Ok(());
    };
    Err(UserError::Invalid { what, reason })
}

/// So many lower-case hexadecimal digits.
fn random_text(digits: usize) -> String {
    let mut text = String::new();
    while text.len() < digits {
        text.push_str(&format!("{:032x}", coffer_common::random::random::<u128>()));
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_checked() {
        for name in ["", "root", "a/b", "a b", "ü", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("First.Last+x@example.com").is_ok());
        for key in ["ab", "a:bc", "a/bc", "a bc", "a=bc"] {
            assert!(check_key("the access key", key, ACCESS_KEY_CHARS).is_err(), "{key}");
        }
        assert!(check_key("the secret key", "a+b/c=d:e", SECRET_KEY_CHARS).is_ok());
        assert!(check_key("the secret key", "short", SECRET_KEY_CHARS).is_err());
        assert_eq!(random_text(40).len(), 40);
    }
}
