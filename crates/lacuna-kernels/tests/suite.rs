//! All cases with the fastest implementation that this machine has.

mod cases;

mod attention {
    use super::cases::attention as cases;

    #[test]
    fn every_case_agrees_with_the_reference() {
        cases::every_case_agrees_with_the_reference();
    }

    #[test]
    fn order_of_dimensions_does_not_matter() {
        cases::order_of_dimensions_does_not_matter();
    }

    #[test]
    fn narrowed_caches_are_read_in_place() {
        cases::narrowed_caches_are_read_in_place();
    }

    #[test]
    fn extreme_scores_stay_finite() {
        cases::extreme_scores_stay_finite();
    }

    #[test]
    fn blind_queries_yield_zeros() {
        cases::blind_queries_yield_zeros();
    }

    #[test]
    fn nan_comes_through() {
        cases::nan_comes_through();
    }

    #[test]
    fn gradients_of_the_reference_are_slopes() {
        cases::gradients_of_the_reference_are_slopes();
    }

    #[test]
    fn thread_count_does_not_matter() {
        cases::thread_count_does_not_matter();
    }
}

mod parts {
    use super::cases::parts as cases;

    #[test]
    fn every_case_agrees_with_the_reference() {
        cases::every_case_agrees_with_the_reference();
    }

    #[test]
    fn gradients_of_the_reference_are_slopes() {
        cases::gradients_of_the_reference_are_slopes();
    }

    #[test]
    fn thread_count_does_not_matter() {
        cases::thread_count_does_not_matter();
    }

    #[test]
    fn nll_of_every_row_agrees_with_the_reference() {
        cases::nll_of_every_row_agrees_with_the_reference();
    }

    #[test]
    fn an_upstream_gradient_scales_both_gradients() {
        cases::an_upstream_gradient_scales_both_gradients();
    }

    #[test]
    fn half_precision_is_computed_in_single() {
        cases::half_precision_is_computed_in_single();
    }

    #[test]
    fn wrong_shapes_are_refused_in_words() {
        cases::wrong_shapes_are_refused_in_words();
    }
}

mod optimizer {
    use super::cases::optimizer as cases;

    #[test]
    fn ten_steps_follow_the_formula() {
        cases::ten_steps_follow_the_formula();
    }

    #[test]
    fn fused_steps_agree_with_composed_ones() {
        cases::fused_steps_agree_with_composed_ones();
    }

    #[test]
    fn small_steps_are_not_lost_in_half_precision() {
        cases::small_steps_are_not_lost_in_half_precision();
    }

    #[test]
    fn a_restored_state_continues_bit_for_bit() {
        cases::a_restored_state_continues_bit_for_bit();
    }

    #[test]
    fn a_parameter_without_gradient_is_an_error() {
        cases::a_parameter_without_gradient_is_an_error();
    }

    #[test]
    fn thread_count_does_not_matter() {
        cases::thread_count_does_not_matter();
    }
}
