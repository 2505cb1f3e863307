use super::*;

/// Schedules of every scenario, none of which may show a violation.
fn holds(n: u8, schedules: u64) {
    for &scenario in Scenario::ALL {
        let report = simulate(n, scenario, 0..schedules, 2);
        assert_eq!(report.violations, 0, "n {n} {}: {report}", scenario.name);
        assert_eq!(report.schedules, schedules);
    }
}

#[test]
fn random_schedules_hold_on_4_slots() {
    holds(4, 3000);
}

#[test]
fn random_schedules_hold_on_5_slots() {
    holds(5, 2000);
}

#[test]
fn random_schedules_hold_on_8_slots() {
    holds(8, 1000);
}

#[test]
fn random_schedules_hold_on_narrow_and_wide_stripes() {
    for n in [1, 2, 3, 16] {
        holds(n, 60);
    }
}

#[test]
fn every_broken_rule_is_noticed_on_4_slots() {
    let unnoticed: Vec<_> = CASES
        .iter()
        .filter(|case| simulate_broken(4, case, 0..80_000, 2, true).violations == 0)
        .map(|case| case.name)
        .collect();
    assert_eq!(unnoticed, [""; 0]);
}

#[test]
fn a_schedule_is_its_seed() {
    let run = || simulate(5, Scenario::INSTALL, 7..60, 1).to_string();
    assert_eq!(run(), run());
}

#[test]
fn without_faults_nearly_everything_succeeds() {
    let report = simulate(4, Scenario::CALM, 0..2000, 2);
    assert!(report.outcomes("read-503") * 1000 < report.outcomes("read"), "{report}");
    assert!(report.outcomes("unknown") * 8 < report.outcomes("committed"), "{report}");
}
