from insight_rl.algorithm.algorithm import Algorithm

__all__ = ["Algorithm"]
