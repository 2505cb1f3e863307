use proptest::prelude::*;

use super::*;

const READ: Call = Call::Read;
const UNKNOWN: Return = Return::Unknown;

fn history(operations: &[(Call, Return, u64, u64)]) -> Vec<Operation> {
    let operation = |&(call, returned, begin, end)| Operation { call, returned, begin, end };
    operations.iter().map(operation).collect()
}

fn assert_is(expected: bool, operations: &[(Call, Return, u64, u64)]) {
    assert_eq!(is_linearizable(&history(operations)), expected, "{operations:?}");
}

#[test]
fn reads_return_the_last_write() {
    assert_is(true, &[(Call::Write(1), Return::Ok, 1, 2), (READ, Return::Value(1), 3, 4)]);
    assert_is(false, &[(Call::Write(1), Return::Ok, 1, 2), (READ, Return::Value(0), 3, 4)]);
    assert_is(true, &[(Call::Write(1), Return::Ok, 1, 5), (READ, Return::Value(0), 3, 4)]);
}

#[test]
fn a_value_once_read_stays_visible() {
    let write = (Call::Write(1), UNKNOWN, 1, 9);
    assert_is(true, &[write, (READ, Return::Value(0), 2, 3), (READ, Return::Value(1), 4, 5)]);
    assert_is(false, &[write, (READ, Return::Value(1), 2, 3), (READ, Return::Value(0), 4, 5)]);
}

#[test]
fn an_unknown_operation_may_take_effect_late_or_never_but_only_once() {
    let write = (Call::Write(1), UNKNOWN, 1, 2);
    assert_is(true, &[write, (READ, Return::Value(0), 5, 6)]);
    assert_is(true, &[write, (Call::Write(2), Return::Ok, 3, 4), (READ, Return::Value(1), 5, 6)]);
    let deleted = (Call::Write(0), Return::Ok, 5, 6);
    assert_is(false, &[write, (READ, Return::Value(1), 3, 4), deleted, (READ, Return::Value(1), 7, 8)]);
    assert_is(false, &[(READ, Return::Value(1), 1, 2), (Call::Write(1), UNKNOWN, 3, 4)]);
}

#[test]
fn only_one_create_succeeds() {
    let create = |v, begin, end| (Call::Replace(0, v), Return::Ok, begin, end);
    assert_is(false, &[create(1, 1, 4), create(2, 2, 3)]);
    assert_is(true, &[create(1, 1, 4), (Call::Replace(0, 2), Return::Rejected, 2, 3)]);
    assert_is(false, &[(Call::Replace(0, 2), Return::Rejected, 1, 2), create(1, 3, 4)]);
}

#[test]
fn a_swap_returns_what_it_replaced() {
    let write = (Call::Write(1), Return::Ok, 1, 2);
    assert_is(true, &[write, (Call::Swap(2), Return::Value(1), 3, 4), (READ, Return::Value(2), 5, 6)]);
    assert_is(
        false,
        &[write, (Call::Swap(2), Return::Value(1), 3, 6), (Call::Swap(3), Return::Value(1), 3, 6)],
    );
}

#[test]
fn a_rejection_tells_that_another_value_was_there() {
    assert_is(false, &[(Call::Write(3), Return::Ok, 1, 2), (Call::Replace(3, 4), Return::Rejected, 3, 4)]);
    assert_is(true, &[(Call::Write(3), Return::Ok, 1, 2), (Call::Replace(4, 5), Return::Rejected, 3, 4)]);
}

#[test]
fn a_contradiction_is_where_the_search_got_stuck() {
    let mut long = Vec::new();
    for at in 0..100 {
        long.push((Call::Write(at), Return::Ok, u64::from(at) * 10 + 1, u64::from(at) * 10 + 2));
        long.push((READ, Return::Value(at), u64::from(at) * 10 + 3, u64::from(at) * 10 + 4));
    }
    assert_eq!(check(&history(&long)), Ok(()));
    long[121].1 = Return::Value(59);
    assert_eq!(check(&history(&long)), Err(Contradiction(120)));
}

/// Tries every order, with no regard to cost.
fn explains(history: &[Operation], done: u32, value: u32) -> bool {
    let left = |at: &usize| done >> at & 1 == 0;
    let certain = |at: &usize| history[*at].returned != UNKNOWN;
    let first_return = (0..history.len()).filter(left).filter(certain).map(|at| history[at].end).min();
    let Some(first_return) = first_return else { return true };
    (0..history.len())
        .filter(left)
        .filter(|&at| history[at].begin < first_return)
        .any(|at| history[at].apply(value).is_some_and(|after| explains(history, done | 1 << at, after)))
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let call = prop_oneof![
        2 => Just(READ),
        3 => (0..4_u32).prop_map(Call::Write),
        3 => (0..3_u32, 0..4_u32).prop_map(|(old, new)| Call::Replace(old, new)),
        1 => (0..4_u32).prop_map(Call::Swap),
    ];
    let operation = (call, 0..4_u32, 0..3_u32, 0..12_u64, 1..8_u64);
    let operation = operation.prop_map(|(call, value, luck, begin, length)| {
        let returned = match (call, luck) {
            (Call::Read, _) => Return::Value(value),
            (_, 0) => Return::Unknown,
            (Call::Replace(..), 1) => Return::Rejected,
            (Call::Swap(_), _) => Return::Value(value),
            _ => Return::Ok,
        };
        Operation { call, returned, begin, end: begin + length }
    });
    prop::collection::vec(operation, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn the_search_finds_what_trying_every_order_finds(history in operations()) {
        prop_assert_eq!(is_linearizable(&history), explains(&history, 0, 0));
    }
}

/// What `clients` who overlap see of a register that is one: each operation takes effect in the middle of its time,
/// every seventh operation may be unknown, and every other one of those never happens.
fn long_history(operations: u32, clients: u64) -> Vec<Operation> {
    let mut value = 0;
    let mut history = Vec::new();
    for number in 1..=operations {
        let moment = u64::from(number) * 10;
        let reach = clients * 5 + u64::from(number * 7919 % 13);
        let (call, returned) = match number % 5 {
            0 | 1 => (READ, Return::Value(value)),
            2 => (Call::Write(number), Return::Ok),
            3 if value == 0 => (Call::Replace(0, number), Return::Ok),
            3 => (Call::Replace(0, number), Return::Rejected),
            _ => (Call::Write(if number % 3 == 0 { 0 } else { number }), Return::Ok),
        };
        let unknown = number % 7 == 0 && !matches!(call, Call::Read | Call::Write(0));
        let returned = if unknown { UNKNOWN } else { returned };
        if !(unknown && number % 2 == 0) {
            value = match call {
                Call::Write(new) => new,
                Call::Replace(old, new) if old == value => new,
                _ => value,
            };
        }
        history.push(Operation { call, returned, begin: moment.saturating_sub(reach), end: moment + reach });
    }
    history
}

#[test]
fn thousands_of_operations_are_checked_in_no_time() {
    for clients in [1, 8, 16] {
        let history = long_history(3_000, clients);
        assert_eq!(check(&history), Ok(()), "{clients} clients");
    }
}

#[test]
fn one_stale_read_among_thousands_of_operations_is_found() {
    for clients in [1, 8, 16] {
        let mut history = long_history(3_000, clients);
        let sees = |at: &usize| matches!(history[*at].returned, Return::Value(value) if value > 0);
        let (stale, at) = ((0..1_000).rfind(sees).unwrap(), (2_000..3_000).find(sees).unwrap());
        history[at].returned = history[stale].returned;
        assert!(check(&history).is_err(), "{clients} clients");
    }
}

#[test]
fn two_winners_and_a_lost_update_among_thousands_of_operations_are_found() {
    let mut history = long_history(3_000, 8);
    let end = history.last().unwrap().end;
    let later = |call, returned| Operation { call, returned, begin: end + 1, end: end + 9 };
    history.push(Operation { end: end + 2, begin: end + 1, ..later(Call::Write(90_000), Return::Ok) });
    let increments = [90_001, 90_002]
        .map(|new| Operation { begin: end + 3, ..later(Call::Replace(90_000, new), Return::Ok) });
    history.push(increments[0]);
    assert_eq!(check(&history), Ok(()));
    history.push(increments[1]);
    assert!(check(&history).is_err());
    history.truncate(3_000);
    history.push(Operation { end: end + 2, ..later(Call::Write(0), Return::Ok) });
    history.extend(
        [90_001, 90_002].map(|new| Operation { begin: end + 3, ..later(Call::Replace(0, new), Return::Ok) }),
    );
    assert!(check(&history).is_err());
}
