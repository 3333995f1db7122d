//! The same cases without AVX2: the portable loops, in a process of their own because the switch is
//! the process's.

mod cases;

mod attention {
    use super::cases::attention as cases;

    #[test]
    fn every_case_agrees_with_the_reference() {
        lacuna_kernels::force_portable(true);
        cases::every_case_agrees_with_the_reference();
    }

    #[test]
    fn narrowed_caches_are_read_in_place() {
        lacuna_kernels::force_portable(true);
        cases::narrowed_caches_are_read_in_place();
    }

    #[test]
    fn extreme_scores_stay_finite() {
        lacuna_kernels::force_portable(true);
        cases::extreme_scores_stay_finite();
    }

    #[test]
    fn blind_queries_yield_zeros() {
        lacuna_kernels::force_portable(true);
        cases::blind_queries_yield_zeros();
    }

    #[test]
    fn nan_comes_through() {
        lacuna_kernels::force_portable(true);
        cases::nan_comes_through();
    }

    #[test]
    fn thread_count_does_not_matter() {
        lacuna_kernels::force_portable(true);
        cases::thread_count_does_not_matter();
    }
}

mod parts {
    use super::cases::parts as cases;

    #[test]
    fn every_case_agrees_with_the_reference() {
        lacuna_kernels::force_portable(true);
        cases::every_case_agrees_with_the_reference();
    }

    #[test]
    fn thread_count_does_not_matter() {
        lacuna_kernels::force_portable(true);
        cases::thread_count_does_not_matter();
    }

    #[test]
    fn nll_of_every_row_agrees_with_the_reference() {
        lacuna_kernels::force_portable(true);
        cases::nll_of_every_row_agrees_with_the_reference();
    }

    #[test]
    fn an_upstream_gradient_scales_both_gradients() {
        lacuna_kernels::force_portable(true);
        cases::an_upstream_gradient_scales_both_gradients();
    }
}

mod optimizer {
    use super::cases::optimizer as cases;

    #[test]
    fn ten_steps_follow_the_formula() {
        lacuna_kernels::force_portable(true);
        cases::ten_steps_follow_the_formula();
    }

    #[test]
    fn fused_steps_agree_with_composed_ones() {
        lacuna_kernels::force_portable(true);
        cases::fused_steps_agree_with_composed_ones();
    }

    #[test]
    fn thread_count_does_not_matter() {
        lacuna_kernels::force_portable(true);
        cases::thread_count_does_not_matter();
    }
}
