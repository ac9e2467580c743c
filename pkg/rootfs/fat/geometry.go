package fat

import "fmt"

// SectorSize is the logical sector in bytes.
const SectorSize = 512

// Type is the width of the entries of the file allocation table.
type Type int

// Auto is FAT32 where the size allows it (33 MiB and more), otherwise FAT16.
const (
	Auto  Type = 0
	FAT16 Type = 16
	FAT32 Type = 32
)

// The number of clusters, and nothing else, tells readers the type. Readers
// disagree by a few at the limits, so the specification asks to stay 16 away
// from them.
const (
	minClusters16 = 4085 + 16
	maxClusters16 = 65524 - 16
	minClusters32 = 65525 + 16
	// 0x0FFFFFF7 marks a bad cluster; numbers begin at 2.
	maxClusters32 = 0x0FFFFFF5 - 16
)

const (
	fats = 2
	// maxCluster is the largest cluster that every reader takes: 32 KiB.
	maxCluster = 64
	// goodCluster is a page: larger ones waste space, smaller ones make the
	// table long. It is used where the size allows it.
	goodCluster = 8
	// manyClusters is where a larger table costs more than larger clusters:
	// 8 GiB of 4 KiB, as in the specification's table.
	manyClusters = 8 << 30 / (goodCluster * SectorSize)
	// rootEntries of FAT16, whose root directory cannot grow.
	rootEntries   = 512
	rootSectors16 = rootEntries * entrySize / SectorSize
	// reserved32 has room for the boot sectors and their backup.
	reserved32 = 32
	// maxSectors is what the boot sector can hold.
	maxSectors = 1<<32 - 1
)

// geometry is where everything is, in sectors.
type geometry struct {
	kind     Type
	total    int64
	reserved int64 // boot sectors
	fat      int64 // one table
	rootDir  int64 // FAT16's root directory
	cluster  int64 // of one cluster
	clusters int64
}

// newGeometry lays out a file system of size bytes.
func newGeometry(kind Type, size int64) (geometry, error) {
	if size%SectorSize != 0 || size <= 0 || size/SectorSize > maxSectors {
		return geometry{}, fmt.Errorf("size %d is not a multiple of %d from 1 to %d sectors", size, SectorSize, int64(maxSectors))
	}
	total := size / SectorSize
	switch kind {
	case FAT32:
		first := int64(goodCluster)
		for first < maxCluster && total/first > manyClusters {
			first *= 2
		}
		for c := first; c >= 1; c /= 2 {
			if g := layout(kind, total, c); g.clusters >= minClusters32 && g.clusters <= maxClusters32 {
				return g, nil
			}
		}
		return geometry{}, fmt.Errorf("size %d does not suit FAT32, which needs %d clusters; use 33 MiB or more", size, minClusters32)
	case FAT16:
		for c := int64(1); c <= maxCluster; c *= 2 {
			if g := layout(kind, total, c); g.clusters <= maxClusters16 {
				if g.clusters >= minClusters16 {
					return g, nil
				}
				break
			}
		}
		return geometry{}, fmt.Errorf("size %d does not suit FAT16, which has %d to %d clusters; use 3 MiB to 2 GiB less 2 MiB", size, minClusters16, maxClusters16)
	case Auto:
		if g, err := newGeometry(FAT32, size); err == nil {
			return g, nil
		}
		return newGeometry(FAT16, size)
	}
	return geometry{}, fmt.Errorf("type %d is not FAT16 or FAT32", kind)
}

// layout computes the smallest table that has an entry for each cluster, and
// moves the first cluster to a multiple of the cluster size by way of the
// reserved sectors.
func layout(kind Type, total, cluster int64) geometry {
	g := geometry{kind: kind, total: total, cluster: cluster, reserved: 1, rootDir: rootSectors16}
	if kind == FAT32 {
		g.reserved, g.rootDir = reserved32, 0
	}
	perSector := SectorSize * 8 / int64(kind) // entries in a sector of the table
	rest := max(0, total-g.reserved-g.rootDir)
	// The smallest fat with (clusters+2)/perSector ≤ fat, where clusters is
	// (rest-fats*fat)/cluster.
	g.fat = (rest + 2*cluster + perSector*cluster + fats - 1) / (perSector*cluster + fats)
	if odd := (g.reserved + fats*g.fat + g.rootDir) % cluster; odd != 0 {
		g.reserved += cluster - odd
	}
	g.clusters = max(0, total-g.data()) / cluster
	return g
}

// data is the sector of the first cluster, number 2.
func (g geometry) data() int64 { return g.reserved + fats*g.fat + g.rootDir }

// clusterBytes is the size of a cluster.
func (g geometry) clusterBytes() int64 { return g.cluster * SectorSize }

// offset is where a cluster begins, bytes.
func (g geometry) offset(cluster int64) int64 {
	return (g.data() + (cluster-2)*g.cluster) * SectorSize
}
