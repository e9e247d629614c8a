"""What to learn: tasks of a predictor, a loss, a post-processor and an evaluator."""

from dacapo.experiments.tasks.tasks import (
    AffinitiesTask,
    AffinitiesTaskConfig,
    DistanceTask,
    DistanceTaskConfig,
    DummyTask,
    DummyTaskConfig,
    HotDistanceTask,
    HotDistanceTaskConfig,
    InnerDistanceTask,
    InnerDistanceTaskConfig,
    OneHotTask,
    OneHotTaskConfig,
    PretrainedTask,
    PretrainedTaskConfig,
    Task,
    TaskConfig,
)

__all__ = [
    "AffinitiesTask",
    "AffinitiesTaskConfig",
    "DistanceTask",
    "DistanceTaskConfig",
    "DummyTask",
    "DummyTaskConfig",
    "HotDistanceTask",
    "HotDistanceTaskConfig",
    "InnerDistanceTask",
    "InnerDistanceTaskConfig",
    "OneHotTask",
    "OneHotTaskConfig",
    "PretrainedTask",
    "PretrainedTaskConfig",
    "Task",
    "TaskConfig",
]
