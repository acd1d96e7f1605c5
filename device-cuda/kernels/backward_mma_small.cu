// backward_mma for devices whose blocks have less shared memory than those of compute capability 8.0: the same with
// smaller tiles.
#define SMALL_TILES true
#include "backward_mma.cu"
