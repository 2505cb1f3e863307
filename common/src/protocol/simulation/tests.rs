use super::*;

fn holds(n: u8, schedules: u64) {
    for &scenario in Scenario::ALL {
        let report = simulate(n, scenario, 0..schedules, 2);
        assert_eq!(report.violations, 0, "n {n} {}: {report}", scenario.name);
    }
}

#[test]
fn schedules_hold_on_4_slots() {
    holds(4, 500);
}
