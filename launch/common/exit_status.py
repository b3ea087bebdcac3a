"""The exit statuses of the commands.

| status  | name         | meaning                                                                                           |
|---------|--------------|---------------------------------------------------------------------------------------------------|
| 0       |              | The command has done what it was asked for.                                                       |
| 1       | `FAILED`     | `launch.inspect`: the data set cannot be trained on. `launch.ablate`: a training has failed.      |
|         |              | `launch.doctor`: JAX does not train here. `launch.check`: something is damaged. After a traceback |
|         |              | 1 means an error in the program.                                                                  |
| 2       | `USER_ERROR` | The command line, a file or a setting is wrong; the message says what to mend.                    |
| 70      | `UNREPEATABLE` | `--run.replay_every`: a step gave other bits when it was computed again. Look at the machine.   |
| 75      | `TRY_AGAIN`  | A signal stopped the run, which is saved. The same command resumes it.                            |
| 76      | `LOST`       | Another process of the run was lost, or the run was stuck. The same command resumes from the last |
|         |              | checkpoint.                                                                                       |
| 130     | `INTERRUPTED`| Ctrl-C ended the command, which left no file half-written. A training that has begun ends with 75.|
| 128 + n |              | Signal n ended the process. 134: JAX aborted it because another process was lost. 130 or 143: a   |
|         |              | second SIGINT or SIGTERM arrived before the run was saved.                                        |

If one of several processes ends with 1, 2, 70 or 76, it tells the others, and all end with that status (ending.py).

`launch/slurm.sbatch` and `launch/ablate.sbatch` requeue a job by these numbers, and `launch/gke_gpu.yaml` and
`launch/gke_tpu.yaml` restart it.
"""

FAILED = 1
USER_ERROR = 2
UNREPEATABLE = 70
"""The status EX_SOFTWARE of sysexits.h."""
TRY_AGAIN = 75
"""The status EX_TEMPFAIL of sysexits.h."""
LOST = 76
INTERRUPTED = 130
