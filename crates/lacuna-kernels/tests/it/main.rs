//! Runs every case on every backend: the reference and each instruction set that this machine has.

mod cases;
mod weight_matrix;

use lacuna_kernels::{Backend, Isa};

/// Makes a test for each backend and case. On a machine without a backend its tests say so and pass.
macro_rules! on_every_backend {
    ($($backend:ident = $which:expr;)* => $module:ident $cases:tt) => {
        mod $module {
            use super::*;
            $(mod $backend {
                use super::*;
                on_every_backend!(@cases $module $which, $cases);
            })*
        }
    };
    (@cases $module:ident $which:expr, { $($case:ident)* }) => {
        $(#[test]
        fn $case() {
            let backend = $which;
            match Backend::here().contains(&backend) {
                true => cases::$module::$case(backend),
                false => eprintln!("{backend:?} does not run on this machine"),
            }
        })*
    };
    (fused $module:ident $cases:tt) => {
        on_every_backend! {
            portable = Backend::Cpu(Isa::Portable);
            neon = Backend::Cpu(Isa::Neon);
            avx2 = Backend::Cpu(Isa::Avx2);
            avx512 = Backend::Cpu(Isa::Avx512);
            => $module $cases
        }
    };
    ($($module:ident $cases:tt)*) => {
        $(on_every_backend! {
            reference = Backend::Reference;
            portable = Backend::Cpu(Isa::Portable);
            neon = Backend::Cpu(Isa::Neon);
            avx2 = Backend::Cpu(Isa::Avx2);
            avx512 = Backend::Cpu(Isa::Avx512);
            => $module $cases
        })*
    };
}

on_every_backend! {
    attention {
        every_case_agrees_with_the_reference
        order_of_dimensions_does_not_matter
        narrowed_caches_are_read_in_place
        caches_that_lie_apart_are_read_as_if_they_were_one
        packed_caches_are_read_as_what_they_unpack_to
        a_sequence_has_the_same_bits_alone_and_in_any_company
        keys_of_two_segments_have_no_gradient_and_the_error_says_so
        extreme_scores_stay_finite
        blind_queries_yield_zeros
        thread_count_does_not_matter
    }
    parts {
        every_case_agrees_with_the_reference
        thread_count_does_not_matter
        nll_of_every_row_agrees_with_the_reference
        an_upstream_gradient_scales_both_gradients
        half_precision_is_computed_in_single
        wrong_shapes_are_refused_in_words
    }
    gradients {
        the_gradients_of_dense_layers_are_their_products
        products_of_many_rows_are_the_same_for_any_number_of_threads
        the_gradients_of_the_loss_come_with_it
        the_gradients_of_norms_take_what_is_carried_along
        the_gradients_of_elementwise_operations
        the_gradients_of_attention_from_what_was_kept
    }
    optimizer {
        ten_steps_follow_the_formula
        small_steps_are_not_lost_in_rounded_parameters
        a_running_mean_agrees_with_its_definition
        fused_steps_agree_with_composed_ones
        a_step_in_eight_bits_is_a_step_from_what_the_bytes_stand_for
        small_steps_are_not_lost_in_half_precision
        thread_count_does_not_matter
    }
}

/// Cases in which the reference differs on purpose.
mod fused {
    use super::*;

    on_every_backend! { fused attention { nan_comes_through } }
}

/// Cases of the reference alone, in f64.
mod reference {
    use super::*;

    mod attention {
        use super::*;

        #[test]
        fn gradients_of_the_reference_are_slopes() {
            cases::attention::gradients_of_the_reference_are_slopes(Backend::Reference);
        }
    }

    mod parts {
        use super::*;

        #[test]
        fn gradients_of_the_reference_are_slopes() {
            cases::parts::gradients_of_the_reference_are_slopes(Backend::Reference);
        }
    }
}
