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
    fn gradients_of_the_reference_are_slopes() {
        cases::gradients_of_the_reference_are_slopes();
    }

    #[test]
    fn thread_count_does_not_matter() {
        cases::thread_count_does_not_matter();
    }
}
