"""The numbers of the method, each with its reason: those that more than one folder reads."""

# The logits, see docs/how-it-works.md
NEAR = 4  # delta is the mean of so many smallest squared distances: of one alone it would vanish near a center

# The centers and the network
MOVE = 16.0  # one unit of u moves a center by 16 radii of its bucket; then lr acts as on entries of unit vectors
DEEP_SHARE = 0.15  # of lr: it is in units of a bucket's spread, and the deep path's weights have no such unit
NET_WEIGHT = 0.3  # of the network's loss beside the centers': at 1 it cost the centers 7 % on face-like data

# The loss
USE_MEMORY = 20  # m remembers about so many vectors a bucket, since one batch is too thin where buckets are many
LEAST_USE = 1e-9  # m counts as at least this, so that log m is finite where a bucket is empty
SOFTNESS = 0.7  # width of the border between probed and not, in logits: a hard border has no gradient
HALVINGS = 20  # bisection steps that find that border; with 12 the two backends ended 4e-5 apart
RECALL = 0.9  # that routers are trained for and judged by, where nothing else is asked for

# From so many buckets on, what looks at all of them for every vector is too slow and too large
MANY_BUCKETS = 2048

# In blocks nobody sees a bucket that has wandered off, so its m would fall to nothing, and meeting there would be worth
# more than meeting anywhere else: m counts as at least this share of even use.
LEAST_SHARE = 0.05

# Blocks of a step, where there are many buckets, see docs/how-it-works.md
LEAST_BATCH = 1024  # a smaller batch has too few near pairs to put together, and looks at all buckets
BLOCK_PAIRS = 32  # pairs of a block: more would be less alike, fewer make products thin
SEEN = 512  # buckets that a block sees: a vector's other buckets of 4,096 have 1.3 % of its membership
CELLS = 16  # k-means buckets near a vector: with its own alone, a vector far from all centers votes for the wrong ones
LISTED = 4  # buckets that it votes for in each of these, those whose centers are nearest now
MOST_VOTES = 4096  # for the first bucket of the first cell
LISTS_LAST = 128  # steps before these are found anew: nlist^2 products

# What an evaluation reports
LEVELS = (0.80, 0.90, 0.95, 0.99)  # levels of recall
# Training and the choice of an epoch aim at the recall that is wanted, up to this one: of a higher one so few held-out
# answers decide that centers trained for 0.99 scanned more at 0.99 (docs/experiments.md, "The recall that is wanted").
SURE_RECALL = 0.95
COUNTED = 10  # columns of gt that count as right answers
TIED = 0.001  # recalls with and without ties are both told where they differ by more

# The dynamic loss scale
GROWTH_INTERVAL = 2000  # finite steps in a row after which it doubles, of a run that is long enough
GROWTHS, LEAST_INTERVAL = (
    20,
    50,
)  # of a shorter run a twentieth, else it would end at whatever scale it fell to; one try costs a step
SMALLEST_SCALE, LARGEST_SCALE = 1, 2**24  # its bounds, powers of two like all its values
