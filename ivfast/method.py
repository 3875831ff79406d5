"""The numbers of the method that the backends and the NumPy side both read, each with its reason."""

LEAST_USE = 1e-9  # m of a bucket counts as at least this

MOVE = 16.0  # centers move by so many root mean squares of their bucket per unit of u
NET_WEIGHT = 0.3  # of the net's loss beside the centers'
USE_MEMORY = 20  # m remembers about so many vectors a bucket
SOFTNESS = 0.7  # of the border between probed and not, in logits
HALVINGS = 20  # in which training finds that border; at 12 a flip by rounding parts the backends by 4e-5
SMALLEST_SCALE, LARGEST_SCALE = 1, 2**24  # of the loss

COUNTED = 10  # columns of gt that count as right answers

GROWTH_INTERVAL = 2000  # finite steps in a row

LEVELS = (0.80, 0.90, 0.95, 0.99)
RECALL = 0.9  # that routers are trained for and judged by
NEAR = 4  # distances that make up delta

DEEP_SHARE = 0.15  # of the learning rate, for the MLP's weights
