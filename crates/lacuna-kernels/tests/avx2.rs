//! The same cases with AVX2 at most, on machines that have AVX-512: in a process of their own
//! because the switch is the process's.

mod cases;

use lacuna_kernels::{Simd, force_simd};

mod attention {
    use super::cases::attention as cases;
    use super::*;

    #[test]
    fn every_case_agrees_with_the_reference() {
        force_simd(Simd::Avx2);
        cases::every_case_agrees_with_the_reference();
    }

    #[test]
    fn narrowed_caches_are_read_in_place() {
        force_simd(Simd::Avx2);
        cases::narrowed_caches_are_read_in_place();
    }

    #[test]
    fn extreme_scores_stay_finite() {
        force_simd(Simd::Avx2);
        cases::extreme_scores_stay_finite();
    }

    #[test]
    fn blind_queries_yield_zeros() {
        force_simd(Simd::Avx2);
        cases::blind_queries_yield_zeros();
    }

    #[test]
    fn nan_comes_through() {
        force_simd(Simd::Avx2);
        cases::nan_comes_through();
    }

    #[test]
    fn thread_count_does_not_matter() {
        force_simd(Simd::Avx2);
        cases::thread_count_does_not_matter();
    }
}

mod parts {
    use super::cases::parts as cases;
    use super::*;

    #[test]
    fn every_case_agrees_with_the_reference() {
        force_simd(Simd::Avx2);
        cases::every_case_agrees_with_the_reference();
    }

    #[test]
    fn thread_count_does_not_matter() {
        force_simd(Simd::Avx2);
        cases::thread_count_does_not_matter();
    }

    #[test]
    fn nll_of_every_row_agrees_with_the_reference() {
        force_simd(Simd::Avx2);
        cases::nll_of_every_row_agrees_with_the_reference();
    }

    #[test]
    fn an_upstream_gradient_scales_both_gradients() {
        force_simd(Simd::Avx2);
        cases::an_upstream_gradient_scales_both_gradients();
    }
}

mod optimizer {
    use super::cases::optimizer as cases;
    use super::*;

    #[test]
    fn ten_steps_follow_the_formula() {
        force_simd(Simd::Avx2);
        cases::ten_steps_follow_the_formula();
    }

    #[test]
    fn fused_steps_agree_with_composed_ones() {
        force_simd(Simd::Avx2);
        cases::fused_steps_agree_with_composed_ones();
    }

    #[test]
    fn thread_count_does_not_matter() {
        force_simd(Simd::Avx2);
        cases::thread_count_does_not_matter();
    }
}
