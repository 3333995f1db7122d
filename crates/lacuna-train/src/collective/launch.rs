//! Reads from the environment which rank a launcher has started this process as.

/// The place of a process among those that a launcher has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The number of this process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// The number of this process among those of its machine, which is that of its GPU.
    pub local_rank: usize,
    /// The program that has started them.
    pub launcher: Launcher,
}

/// A program that starts the ranks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// OpenMPI's `mpirun`.
    OpenMpi,
    /// MPICH's or Intel's `mpiexec`.
    Mpich,
    /// SLURM's `srun`.
    Slurm,
    /// PyTorch's `torchrun`.
    Torchrun,
}

/// The variables of rank, size and local rank, first the launchers that others run beneath.
const VARIABLES: [(Launcher, [&str; 3]); 4] = [
    (
        Launcher::OpenMpi,
        ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ),
    (Launcher::Mpich, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]),
    // `SLURM_NTASKS` is set in a batch script too, where one process runs.
    (Launcher::Slurm, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"]),
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
];

impl Launch {
    /// The place that the environment tells of, if a launcher has started this process.
    pub fn from_environment() -> Option<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The place that some variables tell of. A launcher whose numbers make no sense has not started this process.
    pub fn from_variables(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| value(name)?.trim().parse::<usize>().ok();
        VARIABLES.iter().find_map(|(launcher, [rank, size, local_rank])| {
            let (rank, size) = (number(rank)?, number(size)?);
            let local_rank = number(local_rank).unwrap_or(0);
            (rank < size).then_some(Self { rank, size, local_rank, launcher: *launcher })
        })
    }

    /// The reason why this build can't join the ranks, and what to do.
    pub(super) fn obstacle(&self) -> String {
        let Self { size, launcher, .. } = self;
        let advice = match launcher {
            Launcher::Torchrun => {
                "torchrun starts ranks for NCCL, which this build lacks: build it with --features nccl, or start them with mpirun"
            }
            _ => {
                "this build joins no ranks: build it with --features mpi (docs/guides/train-on-a-cluster.md)"
            }
        };
        format!("of {size} was started by {}, and {advice}", launcher.name())
    }
}

impl Launcher {
    /// Its name, as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "mpirun",
            Self::Mpich => "mpiexec",
            Self::Slurm => "srun",
            Self::Torchrun => "torchrun",
        }
    }

    /// Tells whether what it starts finds each other by MPI.
    #[cfg(feature = "mpi")]
    pub(super) fn speaks_mpi(self) -> bool {
        self != Self::Torchrun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Option<Launch> {
        Launch::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_launcher_is_known_by_its_own_variables() {
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
        let expected = Launch { rank: 3, size: 8, local_rank: 1, launcher: Launcher::Torchrun };
        assert_eq!(launch(&torchrun), Some(expected));
        let srun = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_LOCALID", "0")];
        assert_eq!(launch(&srun).map(|launch| launch.launcher), Some(Launcher::Slurm));
        // mpirun in a SLURM job: each process has both, and mpirun's count.
        let both = [&srun[..], &[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")]];
        let launched = launch(&both.concat()).unwrap();
        assert_eq!((launched.rank, launched.size, launched.local_rank), (1, 4, 0));
        assert_eq!(launched.launcher, Launcher::OpenMpi);
    }

    #[test]
    fn a_batch_script_and_nonsense_are_no_launch() {
        assert_eq!(launch(&[]), None);
        assert_eq!(launch(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
        assert_eq!(launch(&[("RANK", "8"), ("WORLD_SIZE", "8")]), None);
        assert_eq!(launch(&[("RANK", "one"), ("WORLD_SIZE", "8")]), None);
    }

    #[test]
    fn a_rank_that_can_t_be_joined_says_what_to_do() {
        let launched = launch(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]).unwrap();
        assert!(launched.obstacle().contains("--features mpi"), "{}", launched.obstacle());
        let launched = launch(&[("RANK", "1"), ("WORLD_SIZE", "2")]).unwrap();
        assert!(launched.obstacle().contains("mpirun"), "{}", launched.obstacle());
    }
}
