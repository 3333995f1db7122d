//! Holds every stream to its bytes, recorded when four crates derived their keys for themselves (those of holes,
//! sources and roundings worked out by a program in Python), and the laws of the draws.

use std::collections::BTreeMap;

use lacuna_random::{Places, Purpose, RngCore, below, permutation, stream, uniform, uniform_f32};

/// Seed 7, counters (3, 0) or (3, 5): the first four words of each purpose.
const RECORDED: [(Purpose, u64, [u64; 4]); 15] = [
    (
        Purpose::SourceShuffle,
        5,
        [
            0x3d5b_7480_a53b_60f9,
            0xf529_ca92_29c8_da31,
            0xbc25_438d_c5e7_8953,
            0xede9_e2c3_213d_2a46,
        ],
    ),
    (
        Purpose::Hole,
        0,
        [
            0x9954_bac9_35ec_bbd9,
            0x10c7_529d_fb1b_4967,
            0xbabf_3a28_4638_5a57,
            0x35ba_33dc_205c_ece6,
        ],
    ),
    (
        Purpose::Shuffle,
        0,
        [
            0xb412_3424_d5ab_ac96,
            0x625e_476f_5907_4d40,
            0xb48c_a3bb_9635_a1e2,
            0x8fd6_974c_2577_ee28,
        ],
    ),
    (
        Purpose::SampleEnd,
        0,
        [
            0x4a3d_30f7_a884_498b,
            0xfa1f_e1cb_7e87_e908,
            0x0d74_565c_39db_2a39,
            0xd3e0_5ced_0d6c_83c1,
        ],
    ),
    (
        Purpose::Times,
        5,
        [
            0xa2f1_da96_c639_9eca,
            0x2132_8eea_831b_32ce,
            0x114e_d769_268b_1cc3,
            0xd8a1_9225_0bfb_783b,
        ],
    ),
    (
        Purpose::Masks,
        5,
        [
            0xe9f0_69f1_bb3b_8051,
            0x9e93_328d_f316_0f35,
            0x6ae6_e218_0c65_bfcc,
            0x5db2_18e4_7629_72ee,
        ],
    ),
    (
        Purpose::Likelihood,
        5,
        [
            0x089b_7bd0_90b3_6d2f,
            0x7875_3da7_0582_830c,
            0x358f_0f3f_b1fe_e82f,
            0x8c40_027e_ee62_06b3,
        ],
    ),
    (
        Purpose::MaskEmbedding,
        5,
        [
            0xdb8c_fea7_1e02_5879,
            0x1645_7a66_6787_dc94,
            0xdbe5_76d9_0cb3_dbfa,
            0xab0b_ece8_55fd_2754,
        ],
    ),
    (
        Purpose::Token,
        5,
        [
            0xeb11_585b_7560_5146,
            0x7a45_859d_b456_68ff,
            0xdba8_c28a_5c94_0677,
            0x4575_d03e_16c1_daf0,
        ],
    ),
    (
        Purpose::Order,
        5,
        [
            0x3489_09c7_efb4_8da3,
            0x561c_17e5_541e_8494,
            0xa7ae_e7ca_23f3_990f,
            0x2917_e506_b389_bdb3,
        ],
    ),
    (
        Purpose::Weights,
        0,
        [
            0xdf7b_7570_7c56_c531,
            0x1b1f_2e7e_0b39_82aa,
            0xcce8_655b_e9c7_562f,
            0x2caa_13a4_eb4c_7af2,
        ],
    ),
    (
        Purpose::Rounding,
        5,
        [
            0x320c_621f_2fcf_21f0,
            0x50f0_dc6e_5202_5f7f,
            0x92ac_ae1f_d5f5_f2a5,
            0x03d3_c323_1c4b_c8a8,
        ],
    ),
    (
        Purpose::Resampling,
        0,
        [
            0x82f2_2d2d_695f_6b98,
            0xed93_8e04_99bb_6cab,
            0xd230_386c_0271_fc4f,
            0x39f0_1835_32a7_76a5,
        ],
    ),
    (
        Purpose::Dropout,
        5,
        [
            0x34ea_0ceb_b255_7f36,
            0xf3f1_d4ac_5e8d_e0f7,
            0xef89_e312_69fc_7e24,
            0xf821_8e2c_70b2_7181,
        ],
    ),
    (
        Purpose::Adapter,
        0,
        [
            0xd5ed_3a28_a8ea_8699,
            0x7534_1d1a_ef88_5e82,
            0xe972_7b65_6808_e9ce,
            0x1acb_da1f_17d2_93c2,
        ],
    ),
];

/// The numbers at places 0 to 4 and 999 of an order of a thousand, worked out by a program in Python.
const RECORDED_PLACES: [u64; 6] = [369, 921, 605, 196, 260, 68];

#[test]
fn every_stream_keeps_its_bytes() {
    for (purpose, minor, words) in RECORDED {
        let mut rng = stream(7, purpose, 3, minor);
        assert_eq!([0; 4].map(|_| rng.next_u64()), words, "{purpose:?}");
    }
}

#[test]
fn every_draw_keeps_its_numbers() {
    let mut order = stream(7, Purpose::Order, 3, 5);
    assert_eq!(
        [0; 3].map(|_| uniform(&mut order).to_bits()),
        [0x3fca_4484_e3f7_da44, 0x3fd5_8705_f955_07a0, 0x3fe4_f5dc_f944_7e73],
    );
    // These two lists are what rand 0.9 made of the same streams, which fresh weights and masks were drawn with.
    let mut weights = stream(7, Purpose::Weights, 3, 0);
    assert_eq!(
        [0; 3].map(|_| uniform(&mut weights)),
        [0.8729775809882439, 0.10594454362146699, 0.8004210805318313],
    );
    let mut embedding = stream(7, Purpose::MaskEmbedding, 3, 5);
    assert_eq!(
        [0; 5].map(|_| uniform_f32(&mut embedding)),
        [0.11722326, 0.8576201, 0.4044168, 0.08699763, 0.049619377],
    );
    assert_eq!(
        permutation(&mut stream(7, Purpose::Shuffle, 3, 0), 12),
        [3, 1, 6, 5, 11, 10, 9, 8, 4, 0, 7, 2],
    );
    let mut ends = stream(7, Purpose::SampleEnd, 3, 0);
    assert_eq!([0; 6].map(|_| below(&mut ends, 4)), [3, 0, 1, 1, 2, 0]);
    assert_eq!(below(&mut ends, u64::MAX / 2 + 2), 8_238_102_632_955_476_967);
    let mut thousands = stream(7, Purpose::Shuffle, 3, 0);
    assert_eq!([0; 4].map(|_| below(&mut thousands, 1000)), [142, 96, 410, 648]);
}

#[test]
fn every_part_of_an_address_changes_the_stream() {
    let first = |s, p, a, b| stream(s, p, a, b).next_u64();
    let here = first(1, Purpose::Masks, 2, 3);
    assert_eq!(here, first(1, Purpose::Masks, 2, 3));
    for other in [
        first(2, Purpose::Masks, 2, 3),
        first(1, Purpose::Masks, 3, 3),
        first(1, Purpose::Masks, 2, 4),
        first(1, Purpose::Masks, 3, 2),
    ] {
        assert_ne!(here, other);
    }
    let mut words = RECORDED.map(|(purpose, ..)| purpose as u64);
    words.sort_unstable();
    assert!(words.windows(2).all(|pair| pair[0] < pair[1]), "two purposes share a word");
}

#[test]
fn every_order_of_three_comes_equally_often() {
    let mut counts = BTreeMap::new();
    for trial in 0..6000 {
        let order = permutation(&mut stream(1, Purpose::Shuffle, trial, 0), 3);
        *counts.entry(order).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 6);
    // Each count is binomial with mean 1000 and deviation 29; 5 deviations.
    assert!(counts.values().all(|count| count.abs_diff(1000) < 145), "{counts:?}");
}

#[test]
fn an_order_found_place_by_place_is_another_for_another_epoch_and_favours_no_place() {
    let len = 1 << 40;
    let order = |epoch| Places::new(&mut stream(7, Purpose::Shuffle, epoch, 0), len);
    assert_eq!(order(3).at(1 << 39), order(3).at(1 << 39));
    let same = (0..1000).filter(|place| order(0).at(*place) == order(1).at(*place)).count();
    assert_eq!(same, 0);
    // Places that stand together come from all over: sixteen equal parts, 256 of 4096 expected in each, and the sum of
    // squares over them is chi-squared with 15 degrees of freedom, above 45 once in ten thousand times.
    let mut counts = [0f64; 16];
    let order = order(0);
    (0..4096).for_each(|place| counts[(order.at(place) >> 36) as usize] += 1.0);
    let chi: f64 = counts.iter().map(|count| (count - 256.0).powi(2) / 256.0).sum();
    assert!(chi < 45.0, "{chi}: {counts:?}");
    let neighbours = (0..4096u64).filter(|p| order.at(p + 1).abs_diff(order.at(*p)) < len / 4096);
    assert!(neighbours.count() < 20);
}

#[test]
fn places_are_a_permutation_of_any_length_and_keep_their_numbers() {
    for len in (1..70).chain([255, 256, 257, 1000, 4097]) {
        let places = Places::new(&mut stream(7, Purpose::SourceShuffle, 3, len), len);
        let mut all: Vec<u64> = (0..len).map(|index| places.at(index)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..len).collect::<Vec<_>>());
    }
    let places = Places::new(&mut stream(7, Purpose::SourceShuffle, 3, 0), 1000);
    assert_eq!([0, 1, 2, 3, 4, 999].map(|index| places.at(index)), RECORDED_PLACES);
    // No table is made: the last of more places than any memory holds comes at once.
    let many = u64::MAX - 58;
    let places = Places::new(&mut stream(7, Purpose::SourceShuffle, 3, 0), many);
    assert!((many - 100..many).all(|index| places.at(index) < many));
}

#[test]
fn every_number_comes_to_every_place_equally_often() {
    let mut counts = [[0u32; 7]; 7];
    for trial in 0..7000 {
        let places = Places::new(&mut stream(1, Purpose::SourceShuffle, trial, 0), 7);
        (0..7).for_each(|index| counts[index][places.at(index as u64) as usize] += 1);
    }
    // Each count is binomial with mean 1000 and deviation 29; 5 deviations.
    assert!(counts.iter().flatten().all(|count| count.abs_diff(1000) < 147), "{counts:?}");
    // Neighbours are no nearer to each other than in any order: the mean distance of two of n numbers is n / 3.
    let places = Places::new(&mut stream(1, Purpose::SourceShuffle, 0, 0), 10_000);
    let distance = |index: u64| places.at(index).abs_diff(places.at(index + 1)) as f64;
    let mean = (0..9_999).map(distance).sum::<f64>() / 9_999.0;
    assert!((mean - 10_000.0 / 3.0).abs() < 120.0, "{mean}");
}
