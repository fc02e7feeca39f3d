"""Tasks whose best policy is known, most of them no Gaussian; importing flowrl registers them under ``flowrl/``."""

import gymnasium as gym

# By name: nothing of them is imported before somebody makes one.
gym.register("flowrl/TwoGoodActions-v0", entry_point="flowrl.envs.two_good_actions:TwoGoodActions")
gym.register("flowrl/Obstacle-v0", entry_point="flowrl.envs.obstacle:Obstacle", max_episode_steps=20)
gym.register("flowrl/EnergyBandit-v0", entry_point="flowrl.envs.energy_bandit:EnergyBandit")
gym.register("flowrl/HiddenGoal-v0", entry_point="flowrl.envs.hidden_goal:HiddenGoal")
gym.register("flowrl/MultiGoal-v0", entry_point="flowrl.envs.multi_goal:MultiGoal", max_episode_steps=30)
gym.register("flowrl/NoisyLQR-v0", entry_point="flowrl.envs.noisy_lqr:NoisyLQR", max_episode_steps=200)
gym.register("flowrl/Corridor-v0", entry_point="flowrl.envs.corridor:Corridor")
gym.register("flowrl/ReturnChain-v0", entry_point="flowrl.envs.return_chain:ReturnChain")
gym.register("flowrl/MultiTask-v0", entry_point="flowrl.envs.multi_task:MultiTask")
