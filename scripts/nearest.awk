# Prints the known name that is most like the first argument, which must be near to it; the rest are the known names.

# The least number of letters to change, add or remove to get from one word to the other.
function distance(from, to,    i, j, least, step) {
    for (i = 0; i <= length(from); i++) least[i, 0] = i
    for (j = 0; j <= length(to); j++) least[0, j] = j
    for (i = 1; i <= length(from); i++)
        for (j = 1; j <= length(to); j++) {
            step = least[i - 1, j - 1] + (substr(from, i, 1) != substr(to, j, 1))
            if (least[i - 1, j] + 1 < step) step = least[i - 1, j] + 1
            if (least[i, j - 1] + 1 < step) step = least[i, j - 1] + 1
            least[i, j] = step
        }
    return least[length(from), length(to)]
}

BEGIN {
    given = toupper(ARGV[1])
    shortest = length(given) / 2
    for (k = 2; k < ARGC; k++) {
        far = index(ARGV[k], given) == 1 ? 0.5 : distance(given, ARGV[k])
        if (far <= shortest) { shortest = far; nearest = ARGV[k] }
    }
    print nearest
}
