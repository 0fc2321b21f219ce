use super::*;

const DAY: i64 = 86_400_000_000_000;

fn settings(list: &[(&str, &str)]) -> Retention {
    let mut settings = Retention::default();
    for (name, value) in list {
        settings.set(name, value).unwrap();
    }
    settings
}

/// A closed volume of a hundred pages with points of these days, planned when the first came.
fn volume(id: u32, role: Role, first: i64, last: i64) -> VolumeInfo {
    VolumeInfo {
        id,
        database: DatabaseId(1),
        role,
        pages: 100,
        oldest: first * DAY,
        end: last * DAY + 1,
        settled: last * DAY + 1,
        begun: first * DAY,
        closed: Some(last * DAY),
    }
}

fn leaves(id: u32, first: i64, last: i64) -> VolumeInfo {
    volume(id, Role::Leaves, first, last)
}

#[test]
fn points_go_by_age_and_aggregates_stay() {
    let volumes = [
        leaves(1, 0, 10),
        leaves(2, 10, 20),
        leaves(3, 20, 30),
        volume(4, Role::Inners, 0, 10),
    ];
    let now = 50 * DAY + 2;
    let got = plan(
        &settings(&[("retention", "30d")]),
        Cut::default(),
        &volumes,
        now,
    );
    assert_eq!(got.cut.points, 20 * DAY + 2);
    assert_eq!(got.cut.aggregates, i64::MIN);
    assert_eq!((got.free, got.close, got.pages), (vec![1, 2], vec![], 200));
    // The same again moves nothing.
    let again = plan(
        &settings(&[("retention", "30d")]),
        got.cut,
        &volumes[2..],
        now + 1,
    );
    assert_eq!((again.cut, again.free.len()), (got.cut, 0));
    let all = settings(&[("retention", "30d"), ("retention_aggregates", "same")]);
    let got = plan(&all, Cut::default(), &volumes, now);
    assert_eq!(
        (got.cut.aggregates, got.free),
        (got.cut.points, vec![1, 2, 4])
    );
    let later = settings(&[("retention", "30d"), ("retention_aggregates", "45d")]);
    let got = plan(&later, Cut::default(), &volumes, now);
    assert_eq!((got.cut.aggregates, got.free), (5 * DAY + 2, vec![1, 2]));
}

#[test]
fn a_longer_retention_brings_nothing_back() {
    let old = plan(
        &settings(&[("retention", "1d")]),
        Cut::default(),
        &[],
        50 * DAY,
    )
    .cut;
    for later in [settings(&[("retention", "30d")]), Retention::default()] {
        assert_eq!(plan(&later, old, &[], 51 * DAY).cut, old);
    }
    // A clock that goes back, neither.
    assert_eq!(
        plan(&settings(&[("retention", "1d")]), old, &[], 3 * DAY).cut,
        old
    );
}

#[test]
fn open_volumes_are_closed_first_and_in_time() {
    let open = VolumeInfo {
        closed: None,
        ..leaves(1, 0, 10)
    };
    let by_age = settings(&[("retention", "32d")]);
    let got = plan(&by_age, Cut::default(), &[open], 43 * DAY);
    assert_eq!((got.close, got.free), (vec![1], vec![1]));
    // An eighth of the age is four days.
    let got = plan(&by_age, Cut::default(), &[open], 3 * DAY);
    assert!(got.close.is_empty());
    let got = plan(&by_age, Cut::default(), &[open], 5 * DAY);
    assert_eq!((got.close, got.free), (vec![1], vec![]));
    let empty = VolumeInfo { pages: 0, ..open };
    assert_eq!(plan(&by_age, Cut::default(), &[empty], 400 * DAY).close, []);
}

#[test]
fn one_point_in_the_far_future_pins_nothing() {
    // It came before there was a limit.
    let pinned = VolumeInfo {
        end: 40_000 * DAY,
        ..leaves(1, 0, 10)
    };
    let by_age = settings(&[("retention", "30d")]);
    let got = plan(&by_age, Cut::default(), &[pinned], 40 * DAY);
    assert!(got.free.is_empty());
    let got = plan(&by_age, Cut::default(), &[pinned], 42 * DAY);
    assert_eq!(got.free, [1]);
    // What is read of the rest of its points must not lean on aggregates.
    assert_eq!((got.cut.gone_volume, got.cut.gone_end), (1, pinned.end));
    // Points within the limit keep their volume as long as they live.
    let near = VolumeInfo {
        end: 11 * DAY,
        settled: 10 * DAY,
        ..leaves(1, 0, 10)
    };
    let got = plan(&by_age, Cut::default(), &[near], 41 * DAY - 1);
    assert!(got.free.is_empty());
    assert_eq!(plan(&by_age, Cut::default(), &[near], 41 * DAY).free, [1]);
}

#[test]
fn a_clock_that_was_wrong_erases_nothing_once_it_is_right() {
    // Written in the days 1000 to 1010, while the clock showed 1970.
    let dated = VolumeInfo {
        settled: 1,
        begun: 0,
        closed: Some(1),
        ..leaves(1, 1000, 1010)
    };
    let by_age = settings(&[("retention", "30d")]);
    for now in [0, 5 * DAY, 40 * DAY, 1011 * DAY, 1039 * DAY] {
        let got = plan(&by_age, Cut::default(), &[dated], now);
        if now > 1000 * DAY {
            assert!(got.free.is_empty(), "{now}");
        }
    }
    assert_eq!(
        plan(&by_age, Cut::default(), &[dated], 1041 * DAY).free,
        [1]
    );
}

#[test]
fn by_size_the_oldest_points_go_first() {
    let page = PAGE_SIZE as u64;
    let volumes = [
        leaves(1, 20, 30),
        // Backfilled: written later, older points.
        leaves(2, 0, 5),
        leaves(3, 30, 40),
        volume(4, Role::Inners, 0, 40),
    ];
    let bound = |bytes: u64| settings(&[("max_disk", &bytes.to_string())]);
    let got = plan(&bound(101 * page * 4), Cut::default(), &volumes, 50 * DAY);
    assert!(got.free.is_empty() && got.cut.is_none());
    let got = plan(&bound(101 * page * 3), Cut::default(), &volumes, 50 * DAY);
    assert_eq!((got.free, got.cut.points), (vec![2], 5 * DAY + 1));
    let got = plan(&bound(101 * page * 2), Cut::default(), &volumes, 50 * DAY);
    assert_eq!((got.free, got.cut.points), (vec![1, 2], 30 * DAY + 1));
    // The last volume of points stays.
    let got = plan(&bound(page), Cut::default(), &volumes, 50 * DAY);
    assert_eq!(got.free, [1, 2]);
    // A point from the future does not drag the cut along, and what goes with it is known.
    let mut ahead = volumes;
    ahead[1].end = 900 * DAY;
    let got = plan(&bound(101 * page * 3), Cut::default(), &ahead, 50 * DAY);
    assert_eq!((got.free, got.cut.points), (vec![2], 5 * DAY + 1));
    assert_eq!((got.cut.gone_volume, got.cut.gone_end), (2, 900 * DAY));
}

#[test]
fn aggregates_take_a_quarter_of_the_bound_at_most() {
    let page = PAGE_SIZE as u64;
    let volumes = [
        leaves(1, 90, 100),
        leaves(2, 100, 110),
        volume(3, Role::Inners, 0, 50),
        volume(4, Role::Inners, 50, 110),
    ];
    let bound = settings(&[("max_disk", &(101 * page * 3).to_string())]);
    let got = plan(&bound, Cut::default(), &volumes, 120 * DAY);
    assert_eq!(got.free, [3]);
    // Points are found through inner pages: what they are found through is gone.
    assert_eq!(got.cut.aggregates, 50 * DAY + 1);
    assert_eq!(got.cut.points, 50 * DAY + 1);
}
