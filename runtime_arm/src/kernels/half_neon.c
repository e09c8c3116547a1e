/* bvt_*_half_neon: half_vf.h over the vectors of NEON, which converts fp16 without computing with it. Compiled for size: it is for
 * cores that a model in fp16 is not for.
 */
#include "half_vf.h"
